"""Measured against the limit: every figure is a ratio to raw SQL on the same server in the same minutes.

    python -m bench                 # everything, five interleaved pairs each
    python -m bench drain --pairs 9
    python -m bench enqueue latency
    python -m bench recovery --runs 20   # what becomes of jobs when something dies; minutes, real kills, default times
    python -m bench requests --pairs 12            # what jobs cost the requests of their process

Machines are shared and noisy, so pairs alternate (ours, raw, ours, raw …) and medians are what to quote. The server is the
embedded one, durable: fsync, synchronous_commit and full_page_writes on. ASYNCJOBS_BENCH_DSN names another.
"""
