// Azurite takes account keys from the environment only. Reading them from a private file here keeps
// them out of what others can see of this process.
const { readFileSync } = require("node:fs");

process.env.AZURITE_ACCOUNTS = readFileSync(process.env.AZURITE_ACCOUNTS_FILE, "utf8").trim();
require("azurite/dist/src/blob/main.js");
