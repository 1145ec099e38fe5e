"""SelectObjectContent by boto3: CSV, JSON and Parquet in, CSV and JSON out, against what Python and pyarrow find in the same bytes."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, EventStreamError

from tests.access.people import client
from tests.harness import Server, boto3_client
from tests.harness.failure import failure
from tests.trust.test_audit import QUICK, wait_for

CSV, JSON_LINES, PARQUET = {"CSV": {"FileHeaderInfo": "USE"}}, {"JSON": {"Type": "LINES"}}, {"Parquet": {}}
AS_CSV, AS_JSON = {"CSV": {}}, {"JSON": {}}


def arguments(bucket, key, expression, given=CSV, wanted=AS_CSV, **more):
    return {
        "Bucket": bucket,
        "Key": key,
        "Expression": expression,
        "ExpressionType": "SQL",
        "InputSerialization": given,
        "OutputSerialization": wanted,
    } | more


def events(s3, *asked, **more):
    return list(s3.select_object_content(**arguments(*asked, **more))["Payload"])


def select(s3, *asked, **more):
    """The answer's bytes; it has Stats and ends with End."""
    got = events(s3, *asked, **more)
    assert "Stats" in got[-2] and "End" in got[-1], got[-2:]
    payload = b"".join(event["Records"]["Payload"] for event in got if "Records" in event)
    assert got[-2]["Stats"]["Details"]["BytesReturned"] == len(payload)
    return payload


def rows(payload):
    return list(csv.reader(io.StringIO(payload.decode())))


def records(payload):
    return [json.loads(line) for line in payload.decode().splitlines()]


@pytest.fixture(scope="module")
def _has_select(server):
    s3 = boto3_client(server.endpoint)
    s3.create_bucket(Bucket="select-probe")
    s3.put_object(Bucket="select-probe", Key="k", Body=b"1\n")
    try:
        s3.select_object_content(**arguments("select-probe", "k", "SELECT * FROM S3Object", {"CSV": {}}))["Payload"].close()
    except ClientError as error:
        if error.response["Error"]["Code"] == "NotImplemented":
            assert "granary/select" in error.response["Error"]["Message"], "it says how to have it"
            pytest.skip("this binary was built without the cargo feature `select`")
        raise


@pytest.fixture
def table(s3, bucket, _has_select):
    """The same 30,000 records as CSV, JSON lines and Parquet; and as a pyarrow table."""
    chance = random.Random(7)
    count = 30_000
    data = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "city": [chance.choice(["Bonn", "Köln, am Rhein", 'the "Ruhr"', "Ulm"]) for _ in range(count)],
            "price": [round(chance.uniform(-100, 1000), 2) for _ in range(count)],
            "count": pa.array([None if n % 7 == 0 else chance.randrange(50) for n in range(count)], pa.int32()),
            "ok": [n % 3 == 0 for n in range(count)],
        }
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(data.column_names)
    for record in data.to_pylist():
        writer.writerow(["" if value is None else str(value).lower() if isinstance(value, bool) else value for value in record.values()])
    s3.put_object(Bucket=bucket, Key="t.csv", Body=text.getvalue().encode())
    lines = "".join(json.dumps(record, ensure_ascii=record["id"] % 2 == 0) + "\n" for record in data.to_pylist())
    s3.put_object(Bucket=bucket, Key="t.json", Body=lines.encode())
    body = io.BytesIO()
    pq.write_table(data, body, row_group_size=4000, compression="zstd")
    s3.put_object(Bucket=bucket, Key="t.parquet", Body=body.getvalue())
    return data


FORMS = [("t.csv", CSV), ("t.json", JSON_LINES), ("t.parquet", PARQUET)]


@pytest.mark.parametrize(("key", "given"), FORMS, ids=["csv", "json", "parquet"])
def test_the_same_records_in_every_form(s3, bucket, table, key, given):
    where = "WHERE s.city = 'Köln, am Rhein' AND CAST(s.price AS FLOAT) > 900 AND s.ok = true"
    expected = table.filter(
        pc.and_(pc.and_(pc.equal(table["city"], "Köln, am Rhein"), pc.greater(table["price"], 900)), table["ok"])
    ).to_pylist()
    assert 50 < len(expected) < 2000
    got = rows(select(s3, bucket, key, f"SELECT s.id, s.price, s.city FROM S3Object s {where}", given))
    assert [(int(id), float(price), city) for id, price, city in got] == [(r["id"], r["price"], r["city"]) for r in expected]
    got = records(select(s3, bucket, key, f"SELECT s.id AS n, s.city FROM S3Object s {where} LIMIT 20", given, AS_JSON))
    assert [(int(r["n"]), r["city"]) for r in got] == [(r["id"], r["city"]) for r in expected[:20]]


@pytest.mark.parametrize(("key", "given"), FORMS, ids=["csv", "json", "parquet"])
def test_aggregates(s3, bucket, table, key, given):
    number = "CAST(NULLIF(s.\"count\", '') AS INT)" if key == "t.csv" else 's."count"'
    expression = (
        f"SELECT COUNT(*), COUNT({number}), SUM({number}), MIN(CAST(s.price AS FLOAT)), MAX(CAST(s.price AS FLOAT)), "
        f"AVG(CAST(s.id AS FLOAT)), SUM(CAST(s.id AS INT)) / COUNT(*) FROM S3Object s"
    )
    [got] = rows(select(s3, bucket, key, expression, given))
    price = pc.min_max(table["price"]).as_py()
    n = len(table)
    expected = [n, n - table["count"].null_count, pc.sum(table["count"]).as_py(), price["min"], price["max"], (n - 1) / 2, (n - 1) / 2]
    assert [float(value) for value in got] == pytest.approx(expected)


def test_whole_records_and_big_answers(s3, bucket, table):
    whole = s3.get_object(Bucket=bucket, Key="t.csv")["Body"].read()
    header, _, body = whole.partition(b"\n")
    assert rows(select(s3, bucket, "t.csv", "SELECT * FROM S3Object")) == rows(body)
    lines = s3.get_object(Bucket=bucket, Key="t.json")["Body"].read()
    assert select(s3, bucket, "t.json", "SELECT * FROM S3Object s", JSON_LINES, AS_JSON) == lines
    assert records(select(s3, bucket, "t.parquet", "SELECT * FROM S3Object", PARQUET, AS_JSON)) == table.to_pylist()
    big = b"".join(b"%d,%s\n" % (n, b"abcdefgh" * 12) for n in range(300_000))
    s3.put_object(Bucket=bucket, Key="big", Body=big)
    assert len(big) > 30 << 20
    assert select(s3, bucket, "big", "SELECT * FROM S3Object", {"CSV": {}}) == big
    # Who leaves in the middle ends the query.
    payload = s3.select_object_content(**arguments(bucket, "big", "SELECT * FROM S3Object", {"CSV": {}}))["Payload"]
    next(iter(payload))
    payload.close()
    assert select(s3, bucket, "big", "SELECT COUNT(*) FROM S3Object WHERE _1 > 299998", {"CSV": {}}) == b"1\n"


@pytest.mark.parametrize(("name", "pack"), [("GZIP", gzip.compress), ("BZIP2", bz2.compress)])
def test_compressed(s3, bucket, table, name, pack):
    for key, given in FORMS[:2]:
        plain = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        packed = pack(plain)
        s3.put_object(Bucket=bucket, Key="packed", Body=packed)
        got = events(s3, bucket, "packed", "SELECT COUNT(*) FROM S3Object", given | {"CompressionType": name})
        assert got[0]["Records"]["Payload"] == b"30000\n"
        stats = got[-2]["Stats"]["Details"]
        assert (stats["BytesScanned"], stats["BytesProcessed"]) == (len(packed), len(plain))
    wrong = arguments(bucket, "t.csv", "SELECT COUNT(*) FROM S3Object", CSV | {"CompressionType": name})
    assert failure(s3.select_object_content, **wrong) == (400, "InvalidCompressionFormat")


def test_scan_ranges_share_the_records_out(s3, bucket, table):
    for key, given in FORMS[:2]:
        size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        found, step = [], size // 7
        for start in range(0, size, step):
            scan = {"Start": start, "End": start + step - 1}
            found += rows(select(s3, bucket, key, "SELECT s.id FROM S3Object s", given, ScanRange=scan))
        assert [int(id) for [id] in found] == list(range(len(table))), key
    tail = select(s3, bucket, "t.json", "SELECT s.id FROM S3Object s", JSON_LINES, ScanRange={"End": 10})
    assert tail == b"", "no record begins in the last ten bytes"
    range_of = arguments(bucket, "t.parquet", "SELECT id FROM S3Object", PARQUET, ScanRange={"Start": 0, "End": 10})
    assert failure(s3.select_object_content, **range_of) == (400, "UnsupportedScanRangeInput")


def test_of_parquet_only_what_is_needed_is_read(s3, bucket, table):
    chance = random.Random(3)
    wide = pa.table({"id": range(50_000)} | {f"c{n}": [chance.random() for _ in range(50_000)] for n in range(12)})
    body = io.BytesIO()
    pq.write_table(wide, body, row_group_size=5000)
    s3.put_object(Bucket=bucket, Key="wide", Body=body.getvalue())
    got = events(s3, bucket, "wide", "SELECT c3 FROM S3Object WHERE id = 31234", PARQUET)
    assert float(got[0]["Records"]["Payload"]) == wide["c3"][31234].as_py()
    assert got[-2]["Stats"]["Details"]["BytesScanned"] < len(body.getvalue()) / 10


def test_json_documents(s3, bucket, _has_select):
    document = json.dumps({"Rules": [{"id": "1"}, {"expr": "y > x"}, {"id": "2", "tags": ["a", {"b": None}]}]}, indent=1)
    s3.put_object(Bucket=bucket, Key="d", Body=(document + '{"created": "June 27"}').encode())
    given = {"JSON": {"Type": "DOCUMENT"}}
    assert records(select(s3, bucket, "d", "SELECT id FROM S3Object[*].Rules[*].id", given, AS_JSON)) == [{"id": "1"}, {}, {"id": "2"}, {}]
    found = select(s3, bucket, "d", "SELECT r.tags[1].b FROM S3Object[*].Rules[*] r WHERE r.id = 2", given, AS_JSON)
    assert records(found) == [{"b": None}]
    other = {"JSON": {"RecordDelimiter": ";"}}
    assert select(s3, bucket, "d", "SELECT s.created FROM S3Object s WHERE s.created IS NOT MISSING", given, other) == b'{"created":"June 27"};'


def test_marks_of_csv(s3, bucket, _has_select):
    s3.put_object(Bucket=bucket, Key="m", Body=b"%no\tx\r\na\t'b\r\nc'\r\n'it\\'s'\td")
    given = {
        "CSV": {
            "FieldDelimiter": "\t",
            "RecordDelimiter": "\r\n",
            "QuoteCharacter": "'",
            "QuoteEscapeCharacter": "\\",
            "Comments": "%",
            "AllowQuotedRecordDelimiter": True,
        }
    }
    assert records(select(s3, bucket, "m", "SELECT * FROM S3Object", given, AS_JSON)) == [{"_1": "a", "_2": "b\r\nc"}, {"_1": "it's", "_2": "d"}]
    wanted = {"CSV": {"QuoteFields": "ALWAYS", "FieldDelimiter": "|", "RecordDelimiter": "\n\n", "QuoteCharacter": "'", "QuoteEscapeCharacter": "\\"}}
    assert select(s3, bucket, "m", "SELECT _2, _1 FROM S3Object WHERE _2 = 'd'", given, wanted) == b"'d'|'it\\'s'\n\n"


def test_progress(s3, bucket, table):
    got = events(s3, bucket, "t.csv", "SELECT COUNT(*) FROM S3Object", RequestProgress={"Enabled": True})
    size = s3.head_object(Bucket=bucket, Key="t.csv")["ContentLength"]
    assert [event["Progress"]["Details"] for event in got if "Progress" in event][-1] == {
        "BytesScanned": size,
        "BytesProcessed": size,
        "BytesReturned": 6,
    }


def test_encrypted_objects(s3, bucket, table):
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"0123456789abcdef0123456789abcdef"}
    for name, given in FORMS:
        body = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
        s3.put_object(Bucket=bucket, Key="c", Body=body, **key)
        ask = ("c", "SELECT COUNT(*) FROM S3Object s WHERE s.id < 5", given)
        assert select(s3, bucket, *ask, **key) == b"5\n"
        assert failure(s3.select_object_content, **arguments(bucket, *ask))[0] == 400
        assert failure(s3.select_object_content, **arguments(bucket, *ask, SSECustomerAlgorithm="AES256", SSECustomerKey=b"f" * 32))[0] in (400, 403)


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("SELECT", "ParseUnexpectedToken"),
        ("SELECT 'x FROM S3Object", "LexerInvalidLiteral"),
        ("SELECT nothing FROM S3Object", "MissingHeaders"),
        ("SELECT id FROM S3Object GROUP BY id", "UnsupportedSqlStructure"),
        ("SELECT id FROM S3Object ORDER BY id", "UnsupportedSqlStructure"),
        ("SELECT s.id FROM S3Object s, S3Object t", "ParseMalformedJoin"),
        ("SELECT id FROM S3Object WHERE id IN (SELECT id FROM S3Object)", "UnsupportedSqlStructure"),
        ("SELECT VERSION() FROM S3Object", "UnsupportedFunction"),
        ("SELECT CAST(city AS INT) FROM S3Object", "CastFailed"),
        ("SELECT id FROM S3Object WHERE " + " OR ".join(["id = 1"] * 9000), "MaxOperatorsExceeded"),
        ("SELECT id FROM S3Object WHERE city = '" + "x" * (256 << 10) + "'", "ExpressionTooLong"),
        ("", "ParseEmptySelect"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_has_s3s_code(s3, bucket, table, expression, code):
    assert failure(s3.select_object_content, **arguments(bucket, "t.csv", expression)) == (400, code)


def test_wrong_requests(s3, bucket, table):
    def refused(given=CSV, wanted=AS_CSV, key="t.csv", **more):
        return failure(s3.select_object_content, **arguments(bucket, key, "SELECT * FROM S3Object", given, wanted, **more))

    assert refused(key="none") == (404, "NoSuchKey")
    assert refused(given={"CSV": {}, "JSON": {"Type": "LINES"}}) == (400, "ObjectSerializationConflict")
    assert refused(given={}) == (400, "MissingRequiredParameter")
    assert refused(wanted={}) == (400, "MissingRequiredParameter")
    assert refused(given={"CSV": {"FileHeaderInfo": "SOME"}}) == (400, "InvalidFileHeaderInfo")
    assert refused(given={"JSON": {"Type": "LINE"}}) == (400, "InvalidJsonType")
    assert refused(given=CSV | {"CompressionType": "ZSTD"}) == (400, "InvalidCompressionFormat")
    assert refused(wanted={"CSV": {"QuoteFields": "SOME"}}) == (400, "InvalidQuoteFields")
    assert refused(given=JSON_LINES) == (400, "JSONParsingError")
    assert refused(given=PARQUET) == (400, "ParquetParsingError")
    assert refused(ScanRange={"Start": 9, "End": 3}) == (400, "InvalidScanRange")
    assert refused(ExpressionType="XPATH") == (400, "InvalidExpressionType")


def test_what_goes_wrong_later_is_an_error_event(s3, bucket, _has_select):
    body = b"".join(b"%d,%s\n" % (n, b"x" * 100) for n in range(50_000)) + b"oops,\n"
    s3.put_object(Bucket=bucket, Key="late", Body=body)
    payload = s3.select_object_content(**arguments(bucket, "late", "SELECT CAST(_1 AS INT), _2 FROM S3Object", {"CSV": {}}))["Payload"]
    seen = 0
    with pytest.raises(EventStreamError, match="CastFailed.*oops"):
        for event in payload:
            assert "End" not in event
            seen += len(event.get("Records", {}).get("Payload", b""))
    assert 1 << 20 < seen < len(body)
    s3.head_bucket(Bucket=bucket)


def test_rights(server, s3, bucket, table):
    ask = arguments(bucket, "t.csv", "SELECT COUNT(*) FROM S3Object")
    nobody = client(server, None)
    assert failure(nobody.select_object_content, **ask) == (403, "AccessDenied")
    s3.delete_public_access_block(Bucket=bucket)
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    got = list(nobody.select_object_content(**ask)["Payload"])
    assert got[0]["Records"]["Payload"] == b"30000\n"


def test_limits_and_the_audit_trail(_has_select):
    with Server(env=QUICK | {"GRANARY_SELECT_QUERIES_MAX": "1", "GRANARY_SELECT_TIME_MS": "5000"}) as running:
        running.start()
        s3 = boto3_client(running.endpoint)
        s3.create_bucket(Bucket="limits")
        s3.put_object(Bucket="limits", Key="big", Body=b"".join(b"%d,%s\n" % (n, b"abcdefgh" * 12) for n in range(400_000)))
        ask = arguments("limits", "big", "SELECT * FROM S3Object", {"CSV": {}})
        first = s3.select_object_content(**ask)["Payload"]
        stream = iter(first)
        next(stream)
        # One is being answered, and its reader rests: there is no place for another.
        assert failure(s3.select_object_content, **ask) == (503, "SlowDown")
        # It rests for longer than a query may take.
        time.sleep(6)
        with pytest.raises(EventStreamError, match="Busy"):
            for _ in stream:
                pass
        count = arguments("limits", "big", "SELECT COUNT(*) FROM S3Object LIMIT 1", {"CSV": {}})
        deadline = time.monotonic() + 60
        while outcome(s3, count) == (503, "SlowDown"):
            assert time.monotonic() < deadline, "the place is given back"
            time.sleep(0.2)
        wait_for(running, lambda e: e["eventName"] == "SelectObjectContent" and e.get("errorCode") == "SlowDown", "--bucket", "limits")
        read = wait_for(running, lambda e: e["eventName"] == "SelectObjectContent" and "errorCode" not in e, "--bucket", "limits")[0]
        assert read["readOnly"] is True and read["requestParameters"]["key"] == "big"
        assert read["additionalEventData"]["bytesTransferredOut"] > 0


def outcome(s3, ask):
    try:
        list(s3.select_object_content(**ask)["Payload"])
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return None
