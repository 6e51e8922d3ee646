"""Many machines, by Dask: pictures go to workers, or the parts of one picture do.

- connection.py: a cluster of this machine's own, or a running one, looked over before the work starts.
- steadfast.py: what this machine's own workers load first.
- arrived.py: what a worker makes of what it is given.
- many.py: many pictures: a studio on each worker.
- pool.py: many tasks on the workers, each of which makes what it needs once.
- team.py: one picture, as the run sees it: a search whose arrays are on the workers.
- member.py: a worker's part of it, and what it computes.
- own_thread.py: how its methods run.
- board.py: what the members tell each other, and how their numbers are added up.
- grid.py, pixels.py: who has which part, and the terms of a part's pixels.
"""
