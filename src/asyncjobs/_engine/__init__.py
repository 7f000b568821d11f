"""How a job runs: from a wake-up to a finished row.

The claimer claims what the slots have room for; a slot makes one attempt at a job, which comes to an outcome; the completer
writes outcomes, as many as have gathered while its last statement was under way. Nothing here waits on a timer to fill a
batch: batches grow with the load by themselves.
"""
