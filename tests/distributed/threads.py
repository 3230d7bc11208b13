"""Workers as threads of one process, of which one runs at a time: the whole protocol without starting anything."""

import queue
import threading
from contextlib import contextmanager

from ertacache.distributed.driver import Driver
from ertacache.distributed.messages import Died, HandedIn, Job
from ertacache.distributed.worker import work


class Threads:
    """Workers; ``kills(rank, life, message)`` says whether a worker dies in place of sending a message.

    Attributes:
        starts: how often each was started.
        exchanges: how many there were.
        bytes: of each message that was handed in.
    """

    def __init__(self, num_workers, kills=lambda rank, life, message: False):
        self.num_workers, self.kills = num_workers, kills

    threads = None

    @contextmanager
    def carrier(self):
        """What the pool of bulk generation uses."""
        yield Carrier(self.num_workers, self.kills)

    def run(self, task, load, arguments, keywords):
        carrier = Carrier(self.num_workers, self.kills)
        driver = Driver(carrier, Job(task, load, arguments, keywords, 0, self.num_workers), show=False)
        try:
            return driver.run()
        finally:
            self.exchanges = len(driver.replies)
            self.starts = carrier.lives


class Carrier:
    def __init__(self, num_workers, kills):
        self.num_workers, self.kills = num_workers, kills
        self.messages, self.turn = queue.Queue(), threading.Lock()
        self.lines, self.threads, self.lives = {}, [], {}

    def start(self, job):
        self.lives[job.rank] = self.lives.get(job.rank, 0) + 1
        self.lines[job.rank] = line = Line(self, job.rank, self.lives[job.rank])

        def main():
            with self.turn:
                work(job, line)

        thread = threading.Thread(target=main, daemon=True)
        self.threads.append(thread)
        thread.start()

    def wait(self):
        return self.messages.get(timeout=300)

    def send(self, rank, reply):
        self.lines[rank].answers.put(reply)

    def node(self, rank):
        return f"thread {rank}"

    def close(self):
        for line in self.lines.values():
            line.dead = True
            line.answers.put(None)
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


class Killed(BaseException):
    """What ends the thread of a worker that is killed."""


class Line:
    def __init__(self, carrier, rank, life):
        self.carrier, self.rank, self.life = carrier, rank, life
        self.answers, self.dead = queue.Queue(), False

    def send(self, message):
        if self.dead:
            return
        if self.carrier.kills(self.rank, self.life, message):
            self.dead = True
            self.carrier.messages.put((self.rank, Died("killed")))
            raise Killed
        self.carrier.messages.put((self.rank, message))

    def receive(self):
        if not self.dead:
            with released(self.carrier.turn):
                answer = self.answers.get()
        if self.dead:
            raise Killed
        return answer


@contextmanager
def released(lock):
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


def dying_at(rank, number, lives=1):
    """Kill a worker at an exchange, in each of so many lives."""
    return lambda who, life, message: (
        isinstance(message, HandedIn) and who == rank and message.number == number and life <= lives
    )


def dying_in(rank, what):
    """Kill a worker in its first life at the first exchange of this kind."""
    return lambda who, life, message: (
        isinstance(message, HandedIn) and who == rank and life == 1 and message.what.startswith(what)
    )
