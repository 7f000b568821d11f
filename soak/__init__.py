"""Everything at once, for as long as one likes: real processes, real harm, and books that must balance at the end.

    python -m soak --minutes 1 --seed 7
    python -m soak --minutes 20 --seed 7 --rate 120 --report docs/soak.md
    python -m soak --check FOLDER          # look again at what an earlier run left, with the checks of today

A run has a Postgres of its own (durable, and restarted under the runners), some runner processes, a producer process and a
*nemesis* that harms them on a schedule drawn from the seed. Every process writes down what it saw, in a file of its own
(`history`); triggers write down what happened to each job's row (`trail`). In the end all harm is undone, the system must
drain, and `checks` compares the histories, the trail and what is stored. The seed fixes the schedule and the jobs, not the
microsecond at which they meet: running it again is a new throw with the same dice.
"""
