"""Features and scores pushed to a Redis and a PostgreSQL server of their own, read back value by value; only what
has changed is sent; what was emptied, cut short or pushed twice at a time is never taken for what it is not."""

import datetime
import decimal
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from project import project, run, table

binary = sys.argv[1]
MODELED = [
    "lifetime_value", "churn_risk_score", "propensity_to_buy_score", "engagement_score",
    "recommendation_vector", "primary_segment", "segments",
]
VIEWS = ["browsing", "commerce", "engagement", "lifecycle", "marketing", "support"]
started = []


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command, ready, **options):
    """A server, once it answers."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    started.append(process)
    for _ in range(100):
        try:
            return ready()
        except Exception:
            assert process.poll() is None, command
            time.sleep(0.1)
    raise SystemExit(f"{command[0]} does not answer")


def certificate(folder):
    """A certificate of 127.0.0.1 that nobody has signed but itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


def expected(as_of, views=VIEWS):
    """By customer the values of the store's own files, as Python has them."""
    merged = {}
    for view in views:
        rows = table(folder, f"features/{view}/as_of={as_of}")
        for row in rows.drop(["event_timestamp", "created_timestamp"]).to_pylist():
            merged.setdefault(row.pop("customer360_id"), {}).update(row)
    profile = table(folder, f"profile/as_of={as_of}").select(["customer360_id", *MODELED, "opt_in_status"])
    for row in profile.to_pylist():
        row["opted_out"] = row.pop("opt_in_status") == "opted_out"
        merged.setdefault(row.pop("customer360_id"), {}).update(row)
    return merged


def differing(before, now):
    return sum(before.get(key) != row for key, row in now.items())


def push(kind, *arguments, code=0, **environment):
    told = run(binary, folder, "--format", "json", "export", kind, *arguments, code=code, **environment)
    return told if code else json.loads(told)


def check_redis(client, expected):
    keys = sorted(client.scan_iter("c360:customer:*", count=5000))
    assert keys == sorted(f"c360:customer:{key}" for key in expected), len(keys)
    values = 0
    for key, row in expected.items():
        held = client.hgetall(f"c360:customer:{key}")
        row = {name: value for name, value in row.items() if value is not None}
        assert held.keys() == row.keys(), (key, held.keys() ^ row.keys())
        for name, value in row.items():
            text = held[name]
            if isinstance(value, float):
                same = float(text) == value
            elif isinstance(value, (int, decimal.Decimal)) and not isinstance(value, bool):
                same = decimal.Decimal(text) == value
            elif isinstance(value, list):
                told = json.loads(text)
                # Single precision, as short as it is read back the same.
                narrow = name == "recommendation_vector"
                same = pa.array(told, pa.float32()).to_pylist() == value if narrow else told == value
            elif isinstance(value, datetime.datetime):
                same = text.endswith("Z") and datetime.datetime.fromisoformat(text) == value
            else:
                same = text == (str(value).lower() if isinstance(value, bool) else value)
            assert same, (key, name, text, value)
            values += 1
    return values


def check_postgres(connection, expected, held="c360_customers"):
    cursor = connection.execute(f"select * from {held}")
    names = [column.name for column in cursor.description]
    values, keys = 0, set()
    for row in cursor.fetchall():
        row = dict(zip(names, row))
        keys.add(row["customer360_id"])
        for name, value in expected[row["customer360_id"]].items():
            held = row[name]
            if name == "recommendation_vector":
                held = pa.array(held, pa.float32()).to_pylist()
            assert held == value, (row["customer360_id"], name, held, value)
            values += 1
    assert keys == set(expected)
    connection.rollback()
    return values


def killed(kind, *arguments):
    """A push that is killed in the middle."""
    command = [binary, "--project", str(folder), "-v", "export", kind, *map(str, arguments), "--rate", "400", "--full"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    time.sleep(2.5)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.wait()


def slow(kind, *arguments):
    command = [binary, "--project", str(folder), "export", kind, *map(str, arguments), "--rate", "500", "--full"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


folder = project()
for model in ["churn", "propensity"]:
    path = folder / "models" / f"{model}.toml"
    text = path.read_text()
    path.write_text(text.replace("[label]", 'inputs = { shape = "simple" }\nfit = { compare = false }\n\n[label]', 1))
run(binary, folder, "run", "--as-of", "2024-06-30")
first = expected("2024-06-30")
servers = pathlib.Path(tempfile.mkdtemp(prefix="online-"))
os.chmod(servers, 0o755)
cert, key = certificate(servers)

# Redis: a password, and TLS beside the plain port.
port, tls = free_port(), free_port()
command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--tls-port", tls, "--save", "", "--dir", servers]
command += ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no"]
client = redis.Redis(port=port, password="planted", decode_responses=True)
start([*command, "--requirepass", "planted"], client.ping)
url = ["--url", f"redis://:planted@127.0.0.1:{port}/0"]
told = push("redis", *url, "--dry-run")
assert told["dry_run"] and told["sent"] == len(first) and client.dbsize() == 0, told
assert not (folder / "store/pushes").exists()
told = push("redis", *url)
assert told["everything"] and told["sent"] == len(first), told
print(f"Redis {client.info('server')['redis_version']}: {check_redis(client, first)} values of {len(first)} customers equal")
assert push("redis", *url)["sent"] == 0
client.config_resetstat()
assert push("redis", *url)["sent"] == 0
assert "cmdstat_exec" not in client.info("commandstats"), "a push of nothing writes nothing"

run(binary, folder, "score", "--as-of", "2024-07-01")
second = expected("2024-07-01")
dry = push("redis", *url, "--dry-run")
check_redis(client, first)
told = push("redis", *url)
assert (dry["sent"], dry["removed"]) == (told["sent"], told["removed"]), (dry, told)
assert not told["everything"] and told["sent"] == differing(first, second), told
check_redis(client, second)
print(f"the next night: {told['sent']} of {told['customers']} customers sent")
# Of two views less changes from night to night; other columns are another table.
two = ["--views", "support,marketing", "--prefix", "two:"]
assert push("redis", *url, *two)["columns"] == len(next(iter(expected("2024-07-01", ["support", "marketing"]).values())))
again = push("redis", *url, "--views", "support", "--prefix", "two:")
assert again["everything"], "other columns than before"
assert client.hgetall("c360:push")["as_of"] == "2024-07-01T00:00:00Z"

# What was emptied, touched or cut short is written whole.
client.flushall()
told = push("redis", *url)
assert told["everything"] and told["sent"] == len(second)
for one in list(client.scan_iter("c360:customer:*"))[:3]:
    client.delete(one)
told = push("redis", *url)
assert told["everything"], "three customers were evicted"
check_redis(client, second)
client.set("own:customer:42", "of another program")
error = push("redis", *url, "--prefix", "own:", code=2)
assert "no push has written" in error and client.get("own:customer:42"), error
client.delete("own:customer:42")
client.hset("c360:customer:left over", "orders_30d", 1)
client.hset("c360:push", "name", "something else")
told = push("redis", *url)
assert told["everything"] and told["removed"] == 1, told
check_redis(client, second)
killed("redis", *url)
assert client.hget("c360:push", "name").startswith("unfinished-")
assert push("redis", *url)["everything"]
check_redis(client, second)
late = slow("redis", *url)
time.sleep(1.5)
push("redis", *url, "--full")
_, stderr = late.communicate()
assert late.returncode == 5 and "another push" in stderr, (late.returncode, stderr)
check_redis(client, second)
begun = time.time()
push("redis", *url, "--full", "--rate", "1000")
assert time.time() - begun >= len(second) / 1000 - 0.5
print("Redis: emptied, touched, killed, overtaken and slowed down")

# Customers who are gone go, and those who stay stay.
parquet = glob.glob(str(folder / "fixtures/profile/*.parquet"))[0]
rows = pq.read_table(parquet)
pq.write_table(rows.filter(pc.not_equal(rows["customer360_id"], rows["customer360_id"][7])), parquet)
run(binary, folder, "score", "--as-of", "2024-07-01")
third = expected("2024-07-01")
told = push("redis", *url)
assert told["removed"] == 1 and len(third) == len(second) - 1, told
assert not told["everything"] and told["sent"] == differing(second, third), told
check_redis(client, third)

error = push("redis", "--url", f"redis://:wrong@127.0.0.1:{port}", code=1)
assert "wrong@" not in error and "password" in error, error
error = push("redis", "--url", f"redis://127.0.0.1:{free_port()}", code=1)
assert "is the server up" in error, error
error = push("redis", "--url", "http://127.0.0.1", code=2)
assert "rediss://" in error, error
secure = ["--url", f"rediss://:planted@localhost:{tls}/0"]
error = push("redis", *secure, code=1)
assert "certificate" in error.lower() and "planted" not in error, error
assert push("redis", *secure, SSL_CERT_FILE=str(cert))["everything"]
check_redis(client, third)
assert push("redis", C360_REDIS_URL=url[1])["sent"] == 0
print("Redis: TLS, and what is refused is told without a secret")

# PostgreSQL, as its own user where we are root.
tools = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
data = servers / "data"
who = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
if who:
    shutil.chown(servers, "postgres")
    shutil.chown(key, "postgres")
secret = servers / "password"
secret.write_text("planted")
os.chmod(secret, 0o644)
initdb = [f"{tools}/initdb", "-D", data, "-U", "ann", "--auth", "scram-sha-256", "--pwfile", secret, "-E", "UTF8"]
subprocess.run([*who, *map(str, initdb)], check=True, stdout=subprocess.DEVNULL)
port = free_port()
command = [*who, f"{tools}/postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1"]
command += ["-c", f"unix_socket_directories={servers}", "-c", "ssl=on", "-c", f"ssl_cert_file={cert}", "-c", f"ssl_key_file={key}"]
connection = start(command, lambda: psycopg.connect(host="127.0.0.1", port=port, user="ann", password="planted", dbname="postgres"))
connection.execute("set time zone 'UTC'")
connection.commit()
url = ["--url", f"postgres://ann@127.0.0.1:{port}/postgres"]
environment = {"PGPASSWORD": "planted", "SSL_CERT_FILE": str(cert)}
dry = push("postgres", *url, "--dry-run", **environment)
told = push("postgres", *url, **environment)
assert dry["sent"] == told["sent"], (dry, told)
assert told["everything"] and told["sent"] == len(third), told
version = connection.execute("show server_version").fetchone()[0]
print(f"PostgreSQL {version}: {check_postgres(connection, third)} values of {len(third)} customers equal")
assert push("postgres", *url, **environment)["sent"] == 0
run(binary, folder, "score", "--as-of", "2024-07-02", code=None)
fourth = expected("2024-07-02")
told = push("postgres", *url, **environment)
assert not told["everything"] and told["sent"] == differing(third, fourth), told
check_postgres(connection, fourth)
kinds = dict(connection.execute("select column_name, data_type from information_schema.columns where table_name = 'c360_customers'").fetchall())
assert kinds["spend_30d"] == "numeric" and kinds["orders_30d"] == "bigint" and kinds["segments"] == "ARRAY"
assert kinds["last_seen_at"] == "timestamp with time zone", kinds
changed = connection.execute("select as_of, count(*) from c360_customers group by 1 order by 1").fetchall()
print("the next night:", told["sent"], "sent;", [(str(at), count) for at, count in changed])
connection.rollback()

# A push is seen whole or not at all, and one that is killed leaves what was.
connection.execute("update c360_customers set orders_30d = -1")
connection.execute("update c360_customers_push set name = 'something else'")
connection.execute("insert into c360_customers (customer360_id, as_of) values ('left over', now())")
connection.commit()
os.environ.update(environment)
late = slow("postgres", *url)
time.sleep(2)
counted = "select count(*) from c360_customers where orders_30d = -1"
assert connection.execute(counted).fetchone()[0] == len(fourth)
connection.rollback()
error = push("postgres", *url, code=5)
assert "another push" in error, error
stdout, stderr = late.communicate()
assert late.returncode == 0 and "1 removed" in stdout, (stdout, stderr)
check_postgres(connection, fourth)
killed("postgres", *url)
check_postgres(connection, fourth)
assert push("postgres", *url)["sent"] == 0, "the killed push has left what was there, and its name"
print("PostgreSQL: touched, two at a time, killed")

# What somebody has emptied is full again; what is not ours is left alone.
connection.execute("truncate c360_customers")
connection.commit()
assert push("postgres", *url)["everything"]
check_postgres(connection, fourth)
connection.execute("alter table c360_customers add column note text default 'mine'")
connection.execute("create table crm (customer360_id text primary key, as_of timestamptz not null, email text)")
connection.execute("insert into crm values ('c360_0000001', now(), 'a@example.org')")
connection.commit()
assert push("postgres", *url, "--full")["everything"]
told = connection.execute("select count(note), count(*) from c360_customers").fetchone()
assert told == (len(fourth), len(fourth)), told
connection.execute("alter table c360_customers drop column note")
connection.commit()
error = push("postgres", *url, "--table", "crm", code=2)
assert "no push has written" in error, error
assert connection.execute("select email from crm").fetchall() == [("a@example.org",)]
connection.rollback()

# Columns that are not computed any more lose their values; of another type are refused.
told = push("postgres", *url, "--views", "support")
assert told["everything"], told
assert connection.execute("select count(spend_30d), count(tickets_30d) from c360_customers").fetchone()[0] == 0
connection.rollback()
connection.execute("create schema other; create table other.t (customer360_id text primary key, as_of timestamptz not null, spend_30d double precision)")
connection.commit()
error = push("postgres", *url, "--table", "other.t", code=2)
assert "spend_30d is double precision, and would be numeric(18,2)" in error, error
assert push("postgres", *url, "--table", "other.T")["everything"]
check_postgres(connection, fourth, '"other"."T"')

error = push("postgres", *url, code=1, PGPASSWORD="wrong")
assert "password authentication failed" in error and "wrong" not in error, error
error = push("postgres", "--url", f"postgres://ann@127.0.0.1:{free_port()}/postgres", code=1)
assert "is the server up" in error, error
error = push("postgres", "--url", "postgres://a b:c d", code=2)
assert "postgres://user@host" in error, error
required = ["--url", f"postgres://ann@localhost:{port}/postgres?sslmode=require"]
push("postgres", *required)
error = push("postgres", *required, code=1, SSL_CERT_FILE="/dev/null")
assert "certificate" in error.lower(), error
# As PostgreSQL's own clients do where TLS is preferred and does not succeed.
push("postgres", *url, SSL_CERT_FILE="/dev/null")
print("PostgreSQL: TLS, and what is refused is told without a secret")
for process in started:
    process.terminate()
    process.wait()
shutil.rmtree(folder)
shutil.rmtree(servers)
