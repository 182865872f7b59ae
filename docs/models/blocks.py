#!/usr/bin/env python3
"""Blocks in the log, in random histories: what counts, what an agent believes, what a replica is.

One partition, one provider's agent with an outbox of blocks, two routers that may crash, delay, repeat and cut what they
append, and one consumer whose replica is written in transactions. Every history ends with a check of what must be true:

  lost       an acknowledged event does not count
  repeated   an event counts twice
  disorder   events of the log count in another order than they were made
  doubt      the agent takes its own folder for a restored one, though nobody restored it
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
    """An outbox of events, synced in groups; the sender cuts nothing that is synced, unless that is the shortcut."""

    def __init__(self, recut):
        self.recut, self.blocks, self.made = recut, [], 0
        self.acknowledged, self.digest = 0, "d0"
        self.chain = [(0, "d0")]  # every (next, digest) where the outbox stood
        self.doubts = 0

    def sync(self, count):
        first, before = self.chain[-1]
        block = tuple(range(self.made, self.made + count))
        self.made += count
        self.blocks.append((first, block, before))
        self.chain.append((first + count, link(before, block)))

    def batch(self, draw):
        """What is sent now: whole blocks from the acknowledged place on."""
        if self.recut and draw.random() < 0.5:
            # The shortcut: cut what is not acknowledged anew, to fill the blocks.
            events = [event for event in range(self.acknowledged, self.made)]
            self.blocks = [block for block in self.blocks if block[0] + len(block[1]) <= self.acknowledged]
            self.chain = [place for place in self.chain if place[0] <= self.acknowledged]
            first, before = self.acknowledged, self.digest
            while events:
                block, events = tuple(events[:LARGEST]), events[LARGEST:]
                self.blocks.append((first, block, before))
                first, before = first + len(block), link(before, block)
                self.chain.append((first, before))
        return [block for block in self.blocks if block[0] >= self.acknowledged][:3]

    def answered(self, next, digest):
        if next < self.acknowledged:
            return  # an answer from before
        if (next, digest) == (self.acknowledged, self.digest):
            return
        if (next, digest) not in self.chain:
            self.doubts += 1
            return
        self.acknowledged, self.digest = next, digest


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


def history(seed, rule, recut, cursor):
    draw = random.Random(seed)
    log, tables = [], [Table(rule), Table(rule)]
    read, held, answers = [0, 0], [[], []], []
    agent, replica, truth = Agent(recut), Replica(cursor), Table(rule)
    counted, found = [], set()

    def advance(router):
        for record in log[read[router] :]:
            tables[router].count(record)
        read[router] = len(log)

    def fold():
        while len(counted) < len(log):
            counted.append(truth.count(log[len(counted)]))

    acknowledged = 0
    for _ in range(STEPS):
        step = draw.choice(["sync", "send", "send", "append", "append", "read", "answer", "answer", "crash", "frame", "frame", "connect"])
        router = draw.randrange(2)
        if step == "sync":
            agent.sync(draw.randrange(1, LARGEST + 1))
        elif step == "send":
            held[router].append(agent.batch(draw))
        elif step == "append" and held[router]:
            batch = held[router].pop(draw.randrange(len(held[router])))
            kept = len(batch) if draw.random() < 0.85 else draw.randrange(len(batch) + 1)
            log.extend(batch[:kept])  # a batch may be cut between two records
            if draw.random() < 0.15:
                held[router].append(batch)  # a repeat arrives later
        elif step == "read":
            advance(router)
            answers.append((tables[router].next, tables[router].digest))
        elif step == "answer" and answers:
            agent.answered(*answers.pop(draw.randrange(len(answers))))
            acknowledged = max(acknowledged, agent.acknowledged)
        elif step == "crash" and draw.random() < 0.2:
            held[router] = []
        elif step == "connect" and draw.random() < 0.3:
            fold()
            replica.connect(counted)
        elif step == "frame":
            replica.frame(draw)
            fold()
            if replica.rows != [event for events in counted[: replica.cursor] for event in events]:
                found.add("replica")
                break
    fold()
    events = [event for block in counted for event in block]
    if set(range(acknowledged)) - set(events):
        found.add("lost")
    if len(events) != len(set(events)):
        found.add("repeated")
    if events != sorted(events):
        found.add("disorder")
    if agent.doubts:
        found.add("doubt")
    if "replica" not in found:
        replica.connect(counted)
        while replica.waiting:
            replica.frame(draw)
        if set(events) - set(replica.rows):
            found.add("missing")
    return found, len(events)


RULES = {
    "the rules": dict(rule="whole", recut=False, cursor="held"),
    "a block counts in part": dict(rule="in part", recut=True, cursor="held"),
    "a block is cut again at a retry": dict(rule="whole", recut=True, cursor="held"),
    "a cursor behind a block's first event": dict(rule="whole", recut=False, cursor="behind its first event"),
    "rows of a block before its end": dict(rule="whole", recut=False, cursor="before"),
}


def main():
    is_right = True
    for name, rules in RULES.items():
        broken, events = collections.Counter(), 0
        for seed in range(HISTORIES):
            found, count = history(seed, **rules)
            broken.update(found)
            events += count
        is_right &= bool(broken) == (name != "the rules") and events > 0
        print(f"{name:40s} {events:7d} events in {HISTORIES} histories; broken in: {dict(broken) or 'none'}")
    sys.exit(0 if is_right else 1)


main()
