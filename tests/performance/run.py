"""Every benchmark on one test bed: `make bench`, or this file with `--quick` or `--full`."""

from archive import archive
from audit import audit
from auth import auth
from batches import batches
from benchmark import main
from catch_up import catch_up
from diagnosis import diagnosis
from memory import memory
from posts import posts
from queries import queries
from singles import singles
from storage import storage

if __name__ == "__main__":
    main(batches, singles, posts, storage, memory, audit, auth, queries, diagnosis, catch_up, archive)
