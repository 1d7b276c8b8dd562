"""Jobs through a Redis in two ways that others go: `queues.py seed|celery URL JOBS` prints {"seconds", "done"}.

seed    a list of JSON: a client, a miner and an operator in one event loop, each of whom awaits one step at a time
celery  tasks of Celery, two worker processes, acknowledged when done; results awaited
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time

import celery
import redis.asyncio

# A worker, which is this module too, has other arguments.
URL = os.environ.get("QUEUES_URL") or sys.argv[2]
PATIENCE = 60

app = celery.Celery("queues", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)


def job(number):
    return {"id": f"job-{number}", "model": "queenbee-nano", "price": 100, "max_tokens": 64,
            "input": f"Tell the story of the {number}th bee of the hive."}


@app.task(name="answer")
def answer(job):
    return hashlib.sha256(job["input"].encode()).hexdigest()


async def client(db, jobs):
    for number in range(jobs):
        await db.rpush("jobs", json.dumps(job(number)))


async def miner(db, jobs):
    for _ in range(jobs):
        _, taken = await db.blpop("jobs")
        work = json.loads(taken)
        await db.set(f"claim:{work['id']}", "miner-1")
        output = hashlib.sha256(work["input"].encode()).hexdigest()
        await db.rpush("proofs", json.dumps({"job": work["id"], "miner": "miner-1", "output": output}))


async def operator(db, jobs):
    for _ in range(jobs):
        _, said = await db.blpop("proofs")
        proof = json.loads(said)
        leaf = hashlib.sha256(said).hexdigest()
        await db.rpush("epoch:0", json.dumps({"job": proof["job"], "miner": proof["miner"], "leaf": leaf}))


async def seed(jobs):
    db = redis.asyncio.Redis.from_url(URL)
    await db.flushall()
    start = time.perf_counter()
    await asyncio.gather(client(db, jobs), miner(db, jobs), operator(db, jobs))
    seconds = time.perf_counter() - start
    done = await db.llen("epoch:0")
    await db.aclose()
    return seconds, done


def through_celery(jobs):
    redis.Redis.from_url(URL).flushall()
    arguments = [sys.executable, "-m", "celery", "-A", "queues", "worker", "--concurrency", "2", "--loglevel", "ERROR"]
    with open(os.devnull, "w") as nowhere:
        worker = subprocess.Popen(arguments, env=os.environ | {"QUEUES_URL": URL}, stdout=nowhere)
    try:
        until = time.monotonic() + PATIENCE
        while not app.control.ping(timeout=0.5):
            if time.monotonic() > until:
                sys.exit("the worker does not answer")
        celery.group(answer.s(job(number)) for number in range(32))().get(timeout=PATIENCE)
        start = time.perf_counter()
        results = celery.group(answer.s(job(number)) for number in range(jobs))().get(timeout=PATIENCE * 5)
        return time.perf_counter() - start, len(results)
    finally:
        worker.terminate()
        worker.wait(PATIENCE)


if __name__ == "__main__":
    way, number = sys.argv[1], int(sys.argv[3])
    seconds, done = asyncio.run(seed(number)) if way == "seed" else through_celery(number)
    print(json.dumps({"seconds": seconds, "done": done}))
