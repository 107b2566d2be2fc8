"""Long work: started, streamed, cancelled, watched again, kept on disk, taken up by the next server."""

from endoscope_server.jobs.job import Job, Start, Work
from endoscope_server.jobs.manager import JobManager
from endoscope_server.jobs.recorder import Keeping
from endoscope_server.jobs.records import JobState, Order, Priority, Progress

__all__ = ["Job", "JobManager", "JobState", "Keeping", "Order", "Priority", "Progress", "Start", "Work"]
