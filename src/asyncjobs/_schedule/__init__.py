"""What repeats: who deals with the ticks of schedules, and what people say of schedules at run time.

Every runner keeps in mind when the next tick is due, by the database's clock, and then tries; the row of the schedule decides who
stores the job (`ticker`). Nobody leads, and while nothing is due nobody asks.
"""
