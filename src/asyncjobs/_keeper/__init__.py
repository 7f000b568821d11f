"""What proves this process alive, and notices when another one is not.

The proof is a session advisory lock on the keeper's own connection: the server lets go of it within milliseconds when the
process dies, and holds it while the event loop is merely blocked. The lease (`runners.seen_at`) stands in where no lock can
be held, behind a pooler. Neither is believed blindly: a free lock is a suspicion until it was free twice, and nothing counts
just after this session began, because a restarted server has freed everybody's lock at once, and a long absence of the
server has let everybody's lease run out. Whoever is declared dead wrongly is stopped by the fence.

The keeper lives in a thread of its own (`thread.py`), so that no job can starve it by blocking the application's loop. The engine
knows it by `Post` and `Identity` alone. It also finds the jobs that were claimed in a reply nobody heard (`reconcile.py`).
"""
