-- Whatever role and database prescribe: who waited for another migrator must see what that one did, and write.
set transaction isolation level read committed, read write
