-- How the jobs of each kind in each queue stand that are not final, the most numerous first.
select queue, kind, count, count_working, count_errored, highest_error_count, oldest_run_at
  from asyncjobs.job_stats
 order by count desc, queue, kind
