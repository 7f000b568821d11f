"""What lives: one task group owns the slots, the claimer, the completer, the keeper and the janitor.

Starting: the group runs in a task of its own, below a supervisor that starts it again should anything in it fail; an error
in asyncjobs never reaches the application. Stopping, within a time given: claim no more; give back what has not begun;
let run what runs; cancel the rest; give back what ended; write what is unwritten; leave the list of runners.
"""
