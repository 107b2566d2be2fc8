"""Long work: started, streamed, cancelled, watched again."""

from endoscope_server.jobs.job import Job, JobState, Progress
from endoscope_server.jobs.manager import JobManager, Priority

__all__ = ["Job", "JobManager", "JobState", "Priority", "Progress"]
