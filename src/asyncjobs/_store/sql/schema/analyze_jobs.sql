-- Let the planner see the ballast (restore_ballast.sql): a table without statistics is believed to be anything.
analyze asyncjobs.live_jobs
