#!/usr/bin/env python3
"""Blocks in the log, in random histories: what counts, what an agent believes, what a replica is.

One partition, one provider's agent with an outbox of blocks, two routers that may crash, delay, repeat and cut what they
append, and one consumer whose replica is written in transactions. The agent has several batches under way; a router appends
a batch when it continues the end of its last append. In some histories the log is restored from an older copy of itself.
Every history ends with a check of what must be true:

  lost       an acknowledged event does not count, though the log was not restored
  repeated   an event counts twice
  disorder   events of the log count in another order than they were made
  doubt      the agent takes its folder for a restored one, or the log, though nobody restored it
  unnoticed  the agent does not notice that the log was restored, and has lost what it acknowledged
  stuck      when nothing fails any more, what the outbox holds does not come to count
  replica    after some transaction the replica is not the fold of the blocks before its cursor
  missing    at the end the replica lacks what counts

The rules as they are (docs/protocol.md) break none of these. Each shortcut breaks some. A model shows that a hole exists
and that a rule survives some thousand histories; it proves nothing. Standard library only; a seed repeats a history.
"""

import collections
import hashlib
import random
import sys

HISTORIES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
STEPS = 500
LARGEST = 4  # events in a block
WINDOW = 3  # batches under way
STEPS_OF_A_HISTORY = (
    "sync send send append append append read read answer answer hear hear crash frame frame connect".split()
)


def link(digest, block):
    return hashlib.sha256(f"{digest}|{block}".encode()).hexdigest()[:16]


class Table:
    """The counting rule of a reader."""

    def __init__(self, rule):
        self.rule, self.next, self.digest = rule, 0, "d0"

    def count(self, record):
        """The events of a record that count."""
        first, events, before = record
        if self.rule == "in part":
            # The shortcut: what lies below is known already, the rest is new.
            if first > self.next or first + len(events) <= self.next:
                return []
            events = events[self.next - first :]
        elif first != self.next or before != self.digest:
            return []
        self.next = first + len(record[1])
        self.digest = link(before, record[1])
        return list(events)


class Agent:
    """An outbox of events, synced in groups; the sender cuts nothing that is synced, unless that is the shortcut.

    It has up to WINDOW batches under way. When one was not taken, no other goes out until all are answered; then it
    sends again what is not acknowledged."""

    def __init__(self, recut, floor):
        self.recut, self.floor, self.blocks, self.made = recut, floor, [], 0
        self.acknowledged, self.digest = 0, "d0"
        self.chain = [(0, "d0")]  # every (next, digest) where the outbox stood
        self.doubts, self.noticed = 0, False
        self.sent, self.requests, self.is_held = 0, {}, False

    def sync(self, count):
        first, before = self.chain[-1]
        block = tuple(range(self.made, self.made + count))
        self.made += count
        self.blocks.append((first, block, before))
        self.chain.append((first + count, link(before, block)))

    def cut_again(self):
        """The shortcut: cut what is not acknowledged anew, to fill the blocks."""
        events = [event for event in range(self.acknowledged, self.made)]
        self.blocks = [block for block in self.blocks if block[0] + len(block[1]) <= self.acknowledged]
        self.chain = [place for place in self.chain if place[0] <= self.acknowledged]
        first, before = self.acknowledged, self.digest
        while events:
            block, events = tuple(events[:LARGEST]), events[LARGEST:]
            self.blocks.append((first, block, before))
            first, before = first + len(block), link(before, block)
            self.chain.append((first, before))

    def batch(self, draw):
        """The next request, if one may go out: whole blocks, from the end of what is under way on."""
        if not self.requests:
            self.sent, self.is_held = self.acknowledged, False
            if self.recut and draw.random() < 0.5:
                self.cut_again()
        blocks = [block for block in self.blocks if block[0] >= self.sent][: draw.randrange(1, 4)]
        if self.is_held or len(self.requests) >= WINDOW or not blocks:
            return None
        self.sent = blocks[-1][0] + len(blocks[-1][1])
        number = max(self.requests, default=0) + 1
        self.requests[number] = (self.acknowledged, self.sent)
        return number, blocks

    def answered(self, number, answer):
        """The answer to a request; None when it broke off."""
        asked_at, end = self.requests.pop(number, (None, None))
        if asked_at is None:
            return
        if answer is None or answer[0] < end:
            self.is_held = True
        if answer is not None:
            self.told(answer, asked_at)
        self.sent = max(self.sent, self.acknowledged)

    def told(self, answer, asked_at):
        """The table's word, which is not older than what was acknowledged when it was asked for."""
        next, digest = answer
        lowest = {"when asked": asked_at, "now": self.acknowledged, "none": 0}[self.floor]
        if next < lowest:
            self.noticed = True
        elif next > self.acknowledged:
            if answer in self.chain:
                self.acknowledged, self.digest = next, digest
            else:
                self.doubts += 1
        elif next == self.acknowledged and digest != self.digest:
            self.doubts += 1


class Router:
    """Takes batches, appends them to the log, and reads it. `turns` is its rule of when a batch is appended:

      the end   it continues the end of the router's last append, until that is read back; then, what the table says
      believed  the same, but the end of an append that failed is believed, too
      none      at once
    """

    def __init__(self, turns, rule):
        self.turns, self.rule = turns, rule
        self.begin()

    def begin(self):
        self.table, self.read = Table(self.rule), 0
        self.waiting, self.appended, self.end = [], [], None

    def advance(self, log):
        for record in log[self.read :]:
            self.table.count(record)
        self.read = len(log)

    def may_append(self, blocks):
        if self.turns == "none":
            return True
        first, _, before = blocks[0]
        if self.end and (self.turns == "believed" or self.read < self.end[1]):
            return (first, before) == self.end[0]
        return (first, before) == (self.table.next, self.table.digest)

    def append(self, log, number, blocks, draw):
        """Appends a batch, which may be cut between two records, or fail though it is there."""
        kept = len(blocks) if draw.random() < 0.85 else draw.randrange(len(blocks) + 1)
        is_known = kept == len(blocks) and draw.random() < 0.9
        log.extend(blocks[:kept])
        first, events, before = blocks[-1]
        end = (first + len(events), link(before, events))
        if is_known or self.turns == "believed":
            self.end = (end, len(log))
        self.appended.append((number, len(log) if is_known else None))


class Replica:
    """A consumer's rows and its cursor, written together. It receives frames, which cut blocks anywhere."""

    def __init__(self, cursor):
        self.kind, self.rows, self.cursor = cursor, [], 0
        self.waiting, self.within = collections.deque(), []

    def connect(self, counted):
        """A new stream: everything that counts from the cursor on, event by event."""
        self.within = []
        self.waiting = collections.deque()
        for offset, events in enumerate(counted):
            if offset >= self.cursor:
                self.waiting.extend((offset, event) for event in events)
                self.waiting.append((offset, None))  # progress: the block has passed

    def frame(self, draw):
        """One frame, applied in one transaction."""
        for _ in range(draw.randrange(1, 4)):
            if not self.waiting:
                return
            offset, event = self.waiting.popleft()
            if event is None:
                self.rows += self.within
                self.within, self.cursor = [], offset + 1
            elif self.kind == "held":
                self.within.append(event)
            else:
                self.rows.append(event)
                if self.kind == "behind its first event":
                    self.cursor = offset + 1


class History:
    """One random history, step by step."""

    def __init__(self, seed, rule, recut, cursor, floor, turns):
        self.draw = random.Random(seed)
        self.log, self.routers = [], [Router(turns, rule), Router(turns, rule)]
        self.agent, self.replica, self.truth = Agent(recut, floor), Replica(cursor), Table(rule)
        self.answers, self.counted, self.found = [], [], set()
        self.is_restorable = self.draw.random() < 0.2
        self.went_back = False

    def fold(self):
        while len(self.counted) < len(self.log):
            self.counted.append(self.truth.count(self.log[len(self.counted)]))

    def send(self, router):
        request = self.agent.batch(self.draw)
        if request:
            router.waiting.append(request)

    def append(self, router):
        at = self.draw.randrange(len(router.waiting))
        number, blocks = router.waiting[at]
        if router.may_append(blocks):
            router.waiting.pop(at)
            router.append(self.log, number, blocks, self.draw)
            if self.draw.random() < 0.1:
                router.waiting.append((0, blocks))  # a repeat arrives later, and nobody waits for its answer
        elif self.draw.random() < 0.2:
            # It has waited for its turn long enough: it is answered, and not appended.
            router.waiting.pop(at)
            router.appended.append((number, len(self.log)))

    def answer(self, router):
        at = self.draw.randrange(len(router.appended))
        number, end = router.appended[at]
        if end is not None and router.read < end:
            return
        router.appended.pop(at)
        self.answers.append((number, None if end is None else (router.table.next, router.table.digest)))

    def crash(self, router):
        lost = [number for number, _ in router.waiting + router.appended]
        router.begin()
        self.answers += [(number, None) for number in lost]

    def restore(self):
        """The log is restored from an older copy of itself, and so begin both routers."""
        for router in self.routers:
            self.crash(router)
        del self.log[self.draw.randrange(len(self.log) + 1) :]
        self.went_back = True

    def step(self):
        draw = self.draw
        step = draw.choice(STEPS_OF_A_HISTORY)
        router = draw.choice(self.routers)
        if step == "sync":
            self.agent.sync(draw.randrange(1, LARGEST + 1))
        elif step == "send":
            self.send(router if draw.random() < 0.1 else self.routers[0])
        elif step == "append" and router.waiting:
            self.append(router)
        elif step == "read":
            router.advance(self.log)
        elif step == "answer" and router.appended:
            self.answer(router)
        elif step == "hear" and self.answers:
            number, answer = self.answers.pop(draw.randrange(len(self.answers)))
            self.agent.answered(number, answer)
        elif step == "crash" and draw.random() < 0.1:
            self.crash(router)
        elif step == "connect" and draw.random() < 0.3:
            self.fold()
            self.replica.connect(self.counted)
        elif step == "frame":
            self.frame()

    def frame(self):
        self.replica.frame(self.draw)
        self.fold()
        if self.replica.rows != [event for events in self.counted[: self.replica.cursor] for event in events]:
            self.found.add("replica")

    def settle(self):
        """Nothing fails any more. The agent asks for the table when nothing is under way, and sends the rest."""
        steady = random.Random(1)
        steady.random = lambda: 0.5
        for router in self.routers[1:]:
            self.crash(router)
        router = self.routers[0]
        for _ in range(2 * len(self.agent.blocks) + 20):
            while router.waiting and any(router.may_append(blocks) for _, blocks in router.waiting):
                at = next(at for at, (_, blocks) in enumerate(router.waiting) if router.may_append(blocks))
                router.append(self.log, *router.waiting.pop(at), steady)
            # The rest has waited long enough.
            router.appended += [(number, len(self.log)) for number, _ in router.waiting]
            router.waiting = []
            router.advance(self.log)
            while router.appended:
                self.answer(router)
            for number, answer in self.answers:
                self.agent.answered(number, answer)
            self.answers = []
            if not self.agent.requests:
                self.agent.told((router.table.next, router.table.digest), self.agent.acknowledged)
            if self.agent.noticed or self.agent.doubts or self.agent.acknowledged == self.agent.made:
                return
            self.send(router)
        self.found.add("stuck")

    def restored(self):
        """What the agent notices when the log is restored; answers that are on their way may still acknowledge."""
        told = [answer[0] for _, answer in self.answers if answer is not None]
        acknowledged = self.agent.acknowledged
        promised = max([acknowledged, *told])
        self.restore()
        kept = Table("whole")
        for record in self.log:
            kept.count(record)
        self.settle()
        has_doubt = self.agent.noticed or self.agent.doubts > 0
        if kept.next < acknowledged and not has_doubt:
            self.found.add("unnoticed")
        if kept.next >= promised and has_doubt:
            self.found.add("doubt")
        return self.found, kept.next

    def play(self):
        restored_at = self.draw.randrange(STEPS) if self.is_restorable else None
        for step in range(STEPS):
            if step == restored_at:
                return self.restored()
            self.step()
            if "replica" in self.found or self.agent.doubts or self.agent.noticed:
                break
        acknowledged = self.agent.acknowledged
        if self.agent.doubts or self.agent.noticed:
            self.found.add("doubt")
        elif "replica" not in self.found:
            self.settle()
        self.check(acknowledged)
        return self.found, sum(len(block) for block in self.counted)

    def check(self, acknowledged):
        self.fold()
        events = [event for block in self.counted for event in block]
        if set(range(acknowledged)) - set(events):
            self.found.add("lost")
        if len(events) != len(set(events)):
            self.found.add("repeated")
        if events != sorted(events):
            self.found.add("disorder")
        if "replica" not in self.found:
            self.replica.connect(self.counted)
            while self.replica.waiting:
                self.replica.frame(self.draw)
            if set(events) - set(self.replica.rows):
                self.found.add("missing")


THE_RULES = dict(rule="whole", recut=False, cursor="held", floor="when asked", turns="the end")
RULES = {
    "the rules": {},
    "a block counts in part": dict(rule="in part", recut=True),
    "a block is cut again at a retry": dict(recut=True),
    "a cursor behind a block's first event": dict(cursor="behind its first event"),
    "rows of a block before its end": dict(cursor="before"),
    "an older answer is a log that went back": dict(floor="now"),
    "an older answer is passed over": dict(floor="none"),
    "the end of a failed append is believed": dict(turns="believed"),
}


def main():
    is_right = True
    for name, rules in RULES.items():
        broken, events = collections.Counter(), 0
        for seed in range(HISTORIES):
            found, count = History(seed, **{**THE_RULES, **rules}).play()
            broken.update(found)
            events += count
        is_right &= bool(broken) == (name != "the rules") and events > 0
        print(f"{name:40s} {events:7d} events in {HISTORIES} histories; broken in: {dict(broken) or 'none'}")
    sys.exit(0 if is_right else 1)


main()
