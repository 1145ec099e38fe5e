//! Queries over objects in memory, from the request to the last event.

#![cfg(feature = "engine")]

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression as Codec;
use datafusion::parquet::file::properties::WriterProperties;
use futures::{StreamExt as _, stream};

use granary_select::{
    Code, Compression, Counts, CsvInput, CsvOutput, Error, Event, Header, Input, JsonKind, Limits, Object, Output,
    QuoteFields, Reading, Scan, Select, is_evaluating, run,
};

/// An object in memory, in frames of a few bytes, that counts what is read of it.
struct Memory {
    bytes: Bytes,
    frame_bytes: usize,
    read_bytes: AtomicU64,
}

impl Memory {
    fn new(bytes: impl Into<Bytes>, frame_bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes: bytes.into(), frame_bytes, read_bytes: AtomicU64::new(0) })
    }
}

impl Object for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Reading {
        let at = |at: u64| usize::try_from(at).expect("small");
        let mut bytes = self.bytes.slice(at(range.start)..at(range.end));
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let frame_bytes = self.frame_bytes;
        stream::iter(std::iter::from_fn(move || {
            assert!(!is_evaluating(), "what goes wrong in reading is not the query's");
            let frame = bytes.split_to(bytes.len().min(frame_bytes));
            (!frame.is_empty()).then_some(Ok(frame))
        }))
        .boxed()
    }
}

const LIMITS: Limits = Limits { memory_bytes: 64 << 20, time: Duration::from_secs(600) };

fn csv(expression: &str, header: Header) -> Select {
    Select {
        expression: expression.to_owned(),
        input: Input::Csv(CsvInput { header, ..CsvInput::default() }),
        compression: Compression::None,
        output: Output::Csv(CsvOutput::default()),
        scan: None,
        progress: false,
    }
}

fn as_json(select: Select) -> Select {
    Select { output: Output::Json { record_delimiter: "\n".into() }, ..select }
}

fn json(expression: &str, kind: JsonKind) -> Select {
    as_json(Select { input: Input::Json(kind), ..csv(expression, Header::None) })
}

fn parquet(expression: &str) -> Select {
    as_json(Select { input: Input::Parquet, ..csv(expression, Header::None) })
}

async fn answer_of(select: Select, object: Arc<dyn Object>, limits: Limits) -> Result<(String, Counts), Error> {
    let mut events = run(select, object, limits).await?;
    let (mut out, mut counts, mut is_whole) = (Vec::new(), Counts::default(), false);
    while let Some(event) = events.next().await {
        assert!(!is_whole, "nothing follows End");
        match event? {
            Event::Records(bytes) => out.extend_from_slice(&bytes),
            Event::Stats(stats) => counts = stats,
            Event::End => is_whole = true,
            Event::Progress(_) | Event::Cont => {}
        }
    }
    assert!(is_whole, "End is the last event");
    assert_eq!(counts.returned_bytes, out.len() as u64);
    Ok((String::from_utf8(out).expect("UTF-8"), counts))
}

/// The answer, the same in whatever frames the object comes.
async fn try_ask(select: Select, bytes: impl Into<Bytes>) -> Result<String, Error> {
    let bytes = bytes.into();
    let whole = answer_of(select.clone(), Memory::new(bytes.clone(), 1 << 20), LIMITS).await.map(|(out, _)| out);
    if bytes.len() < 20_000 {
        let bitwise = answer_of(select, Memory::new(bytes, 7), LIMITS).await.map(|(out, _)| out);
        match (&whole, &bitwise) {
            (Ok(whole), Ok(bitwise)) => assert_eq!(whole, bitwise),
            (Err(whole), Err(bitwise)) => assert_eq!(whole.code, bitwise.code),
            _ => panic!("{whole:?} in one frame, {bitwise:?} in many"),
        }
    }
    whole
}

async fn ask(select: Select, bytes: impl Into<Bytes>) -> String {
    let text = select.expression.clone();
    try_ask(select, bytes).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

async fn code(select: Select, bytes: impl Into<Bytes>) -> Code {
    let text = select.expression.clone();
    match try_ask(select, bytes).await {
        Ok(out) => panic!("{text} answered {out:?}"),
        Err(error) => error.code,
    }
}

const PEOPLE: &str = "Name,age,City\nAnn,41,Bonn\nBob,7,\"Köln, am Rhein\"\nEve,,Bonn\nJoe,100\n";

#[tokio::test]
async fn csv_columns_by_name_and_by_place() {
    let by_name = "SELECT s.name, s.City FROM S3Object s WHERE CAST(NULLIF(s.age, '') AS INT) > 40";
    assert_eq!(ask(csv(by_name, Header::Use), PEOPLE).await, "Ann,Bonn\nJoe,\n");
    let by_place = "SELECT _1, s._3 FROM S3Object s WHERE s._3 LIKE 'K_ln%'";
    assert_eq!(ask(csv(by_place, Header::Ignore), PEOPLE).await, "Bob,\"Köln, am Rhein\"\n");
    assert_eq!(ask(csv("SELECT * FROM S3Object LIMIT 1", Header::None), PEOPLE).await, "Name,age,City\n");
    assert_eq!(ask(csv("SELECT * FROM s3object s WHERE s.\"age\" = '100'", Header::Use), PEOPLE).await, "Joe,100\n");
    assert_eq!(
        ask(as_json(csv("SELECT * FROM S3Object WHERE name = 'Joe' OR name = 'Ann'", Header::Use)), PEOPLE).await,
        "{\"Name\":\"Ann\",\"age\":\"41\",\"City\":\"Bonn\"}\n{\"Name\":\"Joe\",\"age\":\"100\"}\n"
    );
    assert_eq!(
        ask(as_json(csv("SELECT _1, _2 || '!' , _3 AS town FROM S3Object LIMIT 1", Header::Ignore)), PEOPLE).await,
        "{\"_1\":\"Ann\",\"_2\":\"41!\",\"town\":\"Bonn\"}\n"
    );
    assert_eq!(code(csv("SELECT s.\"NAME\" FROM S3Object s", Header::Use), PEOPLE).await, Code::MissingHeaders);
    assert_eq!(code(csv("SELECT name FROM S3Object", Header::Ignore), PEOPLE).await, Code::MissingHeaders);
    assert_eq!(code(csv("SELECT t.name FROM S3Object s", Header::Use), PEOPLE).await, Code::InvalidTableAlias);
    assert_eq!(
        code(csv("SELECT A FROM S3Object", Header::Use), "a,B,b\n1,2,3\n".replace("a,", "x,")).await,
        Code::MissingHeaders
    );
    assert_eq!(code(csv("SELECT bB FROM S3Object", Header::Use), "BB,bb\n2,3\n").await, Code::AmbiguousFieldName);
}

#[tokio::test]
async fn csv_values_are_texts_until_cast_and_numbers_beside_numbers() {
    let numbers = "9\n10\n\n-1.5\nx\n";
    assert_eq!(ask(csv("SELECT _1 FROM S3Object WHERE _1 > 9", Header::None), numbers).await, "10\n");
    assert_eq!(ask(csv("SELECT _1 FROM S3Object WHERE _1 > '10'", Header::None), numbers).await, "9\nx\n");
    assert_eq!(ask(csv("SELECT _1 FROM S3Object WHERE _1 <> 9", Header::None), numbers).await, "10\n-1.5\nx\n");
    assert_eq!(ask(csv("SELECT _1 FROM S3Object WHERE _1 IN (9, 10)", Header::None), numbers).await, "9\n10\n");
    assert_eq!(
        ask(csv("SELECT _1 FROM S3Object WHERE _1 NOT IN ('9', 'x')", Header::None), numbers).await,
        "10\n-1.5\n"
    );
    assert_eq!(ask(csv("SELECT _1 FROM S3Object WHERE _1 BETWEEN -2 AND 9", Header::None), numbers).await, "9\n-1.5\n");
    assert_eq!(code(csv("SELECT CAST(_1 AS INT) FROM S3Object", Header::None), numbers).await, Code::CastFailed);
    assert_eq!(
        code(csv("SELECT _1 FROM S3Object WHERE CAST(_1 AS FLOAT) > 1", Header::None), numbers).await,
        Code::CastFailed
    );
    // A condition that stands before a cast guards it.
    let guarded = "SELECT CAST(_1 AS INT) FROM S3Object WHERE _1 <> 'x' AND CAST(_1 AS FLOAT) > 1";
    assert_eq!(ask(csv(guarded, Header::None), numbers).await, "9\n10\n");
    let either = "SELECT _1 FROM S3Object WHERE _1 = 'x' OR CAST(_1 AS FLOAT) > 9";
    assert_eq!(ask(csv(either, Header::None), numbers).await, "10\nx\n");
}

#[tokio::test]
async fn aggregates() {
    let numbers = "a,b\n1,x\n2,y\n3,\n";
    let all = "SELECT COUNT(*), SUM(CAST(a AS INT)), AVG(CAST(a AS FLOAT)) AS mean, MIN(CAST(a AS INT)), MAX(b), SUM(a) / COUNT(*) FROM S3Object";
    assert_eq!(ask(csv(all, Header::Use), numbers).await, "3,6,2,1,y,2\n");
    assert_eq!(ask(csv("SELECT COUNT(*) FROM S3Object WHERE a > 1", Header::Use), numbers).await, "2\n");
    assert_eq!(ask(csv("SELECT COUNT(*), MAX(a) FROM S3Object", Header::Use), "a\n").await, "0,\n");
    let big = format!("{0}\n{0}\n{0}\n", i64::MAX);
    assert_eq!(
        ask(csv("SELECT SUM(CAST(_1 AS INT)) FROM S3Object", Header::None), big.clone()).await,
        "27670116110564327421\n"
    );
    assert_eq!(code(csv("SELECT CAST(_1 AS INT) + 1 FROM S3Object", Header::None), big).await, Code::IntegerOverflow);
    assert_eq!(
        code(csv("SELECT a, COUNT(*) FROM S3Object", Header::Use), numbers).await,
        Code::UnsupportedSqlStructure
    );
    assert_eq!(
        code(csv("SELECT SUM(COUNT(*)) FROM S3Object", Header::Use), numbers).await,
        Code::UnsupportedSqlStructure
    );
    assert_eq!(
        code(csv("SELECT COUNT(a, b) FROM S3Object", Header::Use), numbers).await,
        Code::ParseNonUnaryAgregateFunctionCall
    );
    assert_eq!(
        code(csv("SELECT a FROM S3Object WHERE COUNT(*) > 1", Header::Use), numbers).await,
        Code::UnsupportedSqlStructure
    );
    assert_eq!(code(csv("SELECT SUM(b) FROM S3Object", Header::Use), numbers).await, Code::CastFailed);
}

#[tokio::test]
async fn functions() {
    for (expression, expected) in [
        ("UPPER('aé') || LOWER('BÉ')", "AÉbé"),
        ("CHAR_LENGTH('Köln')", "4"),
        ("SUBSTRING('granary', 2, 3)", "ran"),
        ("SUBSTRING('granary' FROM 5)", "ary"),
        ("TRIM('  x ')", "x"),
        ("TRIM(LEADING 'ab' FROM 'abcab')", "cab"),
        ("TRIM(TRAILING FROM 'x  ')", "x"),
        ("COALESCE(NULL, NULLIF('a', 'a'), 'c')", "c"),
        ("NULLIF(1, 2)", "1"),
        ("CASE WHEN 1 > 2 THEN 'a' WHEN 2 > 1 THEN 'b' ELSE 'c' END", "b"),
        ("CASE 3 WHEN 2 THEN 'two' END", ""),
        ("1 + 2 * 3 - 4 % 3", "6"),
        ("7 / 2", "3"),
        ("7.0 / 2", "3.5"),
        ("CAST('1.50' AS DECIMAL(10, 2))", "1.5"),
        ("CAST(' 12 ' AS INT)", "12"),
        ("CAST(3.9 AS INT)", "3"),
        ("CAST(12 AS STRING) || ''", "12"),
        ("CAST('true' AS BOOL)", "true"),
        ("TO_TIMESTAMP('2007-02-23T12:14:33.079-08:00')", "2007-02-23T20:14:33.079Z"),
        ("DATE_ADD(month, 1, `2024-01-31T`)", ""),
        ("EXTRACT(YEAR FROM TO_TIMESTAMP('2010-01-01T'))", "2010"),
        ("DATE_DIFF(day, TO_TIMESTAMP('2010-01-01'), TO_TIMESTAMP('2010-01-03'))", "2"),
        ("TO_STRING(TO_TIMESTAMP('1969-07-20T20:18Z'), 'MMMM d, y')", "\"July 20, 1969\""),
        ("TO_TIMESTAMP('2010-01-01') < UTCNOW()", "true"),
        ("NOT (1 = 1 AND 2 = 2)", "false"),
        ("'a_b' LIKE 'a!_b' ESCAPE '!'", "true"),
        ("'axb' LIKE 'a!_b' ESCAPE '!'", "false"),
        ("'a\\b' LIKE 'a\\b'", "true"),
    ] {
        let select = csv(&format!("SELECT {expression} FROM S3Object"), Header::None);
        if expression.contains('`') {
            assert_eq!(code(select, "r\n").await, Code::LexerInvalidLiteral, "{expression}");
            continue;
        }
        assert_eq!(ask(select, "r\n").await, format!("{expected}\n"), "{expression}");
    }
    assert_eq!(
        ask(csv("SELECT DATE_ADD(month, 1, `2024-01-31`) FROM S3Object", Header::None), "r\n").await,
        "2024-02-29T00:00:00Z\n"
    );
    for (expression, expected) in [
        ("FOO(_1)", Code::UnsupportedFunction),
        ("RANDOM()", Code::UnsupportedFunction),
        ("UPPER(1)", Code::IncorrectSqlFunctionArgumentType),
        ("UPPER('a', 'b')", Code::IllegalSqlFunctionArgument),
        ("SUM(*)", Code::ParseUnsupportedCallWithStar),
        ("COUNT(DISTINCT _1)", Code::UnsupportedFunction),
        ("DATE_ADD(quarter, 1, UTCNOW())", Code::ParseExpectedDatePart),
        ("CAST(_1 AS BLOB)", Code::ParseExpectedTypeName),
        ("CAST(UTCNOW() AS INT)", Code::InvalidCast),
        ("(SELECT 1 FROM S3Object)", Code::UnsupportedSqlStructure),
        ("1 / 0", Code::EvaluatorInvalidArguments),
        ("9223372036854775807 + 1", Code::IntegerOverflow),
        ("_1 LIKE 'a!b' ESCAPE '!'", Code::EvaluatorLikePatternInvalidEscapeSequence),
        ("_1 LIKE _1", Code::LikeInvalidInputs),
        ("_99999", Code::InvalidColumnIndex),
        ("TO_STRING(UTCNOW(), 'qq')", Code::EvaluatorInvalidTimestampFormatPattern),
    ] {
        let select = csv(&format!("SELECT {expression} FROM S3Object"), Header::None);
        assert_eq!(code(select, "r\n").await, expected, "{expression}");
    }
}

const EVENTS: &str = r#"{"id": 1, "user": {"name": "Ann", "tags": ["a", "b"]}, "score": 2.50, "ok": true}
{"id": "2", "user": {"name": "Bo\"b"}, "score": null, "ok": false}

{"ID": 3, "user": null, "score": 12}
"#;

#[tokio::test]
async fn json_lines() {
    let lines = |expression: &str| json(expression, JsonKind::Lines);
    assert_eq!(
        ask(lines("SELECT s.id, s.user.name, s.\"user\".tags[1] AS t, s.score FROM S3Object[*] s"), EVENTS).await,
        "{\"id\":1,\"name\":\"Ann\",\"t\":\"b\",\"score\":2.50}\n{\"id\":\"2\",\"name\":\"Bo\\\"b\",\"score\":null}\n{\"id\":3,\"score\":12}\n"
    );
    assert_eq!(ask(lines("SELECT s.id FROM S3Object s WHERE s.score > 2"), EVENTS).await, "{\"id\":1}\n{\"id\":3}\n");
    assert_eq!(ask(lines("SELECT s.id FROM S3Object s WHERE s.id = 2"), EVENTS).await, "{\"id\":\"2\"}\n");
    assert_eq!(ask(lines("SELECT s.id FROM S3Object s WHERE s.score IS NULL"), EVENTS).await, "{\"id\":\"2\"}\n");
    assert_eq!(ask(lines("SELECT s.id FROM S3Object s WHERE s.ok IS MISSING"), EVENTS).await, "{\"id\":3}\n");
    assert_eq!(
        ask(lines("SELECT s.id FROM S3Object s WHERE s.score IS NOT MISSING AND s.ok"), EVENTS).await,
        "{\"id\":1}\n"
    );
    assert_eq!(ask(lines("SELECT s.\"id\" FROM S3Object s LIMIT 3"), EVENTS).await, "{\"id\":1}\n{\"id\":\"2\"}\n{}\n");
    assert_eq!(
        ask(lines("SELECT COUNT(*) n, SUM(s.score) total, COUNT(s.score) FROM S3Object s"), EVENTS).await,
        "{\"n\":3,\"total\":14.5,\"_3\":2}\n"
    );
    assert_eq!(
        ask(lines("SELECT * FROM S3Object s WHERE s.score = 12"), EVENTS).await,
        "{\"ID\": 3, \"user\": null, \"score\": 12}\n"
    );
    assert_eq!(
        ask(lines("SELECT COALESCE(s.ok, 'none') AS ok, SIZE(s.user.tags) FROM S3Object s"), EVENTS).await,
        "{\"ok\":true,\"_2\":2}\n{\"ok\":false,\"_2\":null}\n{\"ok\":\"none\",\"_2\":null}\n"
            .replace(",\"_2\":null", ",\"_2\":null")
    );
    let to_csv = Select {
        output: Output::Csv(CsvOutput { quote_fields: QuoteFields::Always, ..CsvOutput::default() }),
        ..lines("SELECT s.user, s.score FROM S3Object s WHERE s.id < 3")
    };
    assert_eq!(
        ask(to_csv, EVENTS).await,
        "\"{\"\"name\"\": \"\"Ann\"\", \"\"tags\"\": [\"\"a\"\", \"\"b\"\"]}\",\"2.50\"\n\"{\"\"name\"\": \"\"Bo\\\"\"b\"\"}\",\"\"\n"
    );
    for bad in ["{\"a\": 1", "{\"a\": 1}}", "nonsense\n", "{\"a\" 1}\n", "{\"a\": \u{1}}"] {
        for expression in ["SELECT s.a FROM S3Object s", "SELECT COUNT(*) FROM S3Object", "SELECT * FROM S3Object"] {
            assert_eq!(code(lines(expression), bad).await, Code::JSONParsingError, "{expression} of {bad}");
        }
    }
    assert_eq!(code(lines("SELECT s.a FROM S3Object s"), &b"{\"a\": \"\xff\"}"[..]).await, Code::InvalidTextEncoding);
}

#[tokio::test]
async fn json_documents_and_paths() {
    let rules = "{\n \"Rules\": [\n  {\"id\": \"1\"},\n  {\"expr\": \"y > x\"},\n  {\"id\": \"2\", \"expr\": \"z = DEBUG\"}\n ]\n}\n{\"created\": \"June 27\"}";
    let document = |expression: &str| json(expression, JsonKind::Document);
    // The two examples of the documentation of FROM.
    assert_eq!(
        ask(document("SELECT id FROM S3Object[*].Rules[*].id"), rules).await,
        "{\"id\":\"1\"}\n{}\n{\"id\":\"2\"}\n{}\n"
    );
    assert_eq!(
        ask(document("SELECT * FROM S3Object[*].Rules[*] r WHERE r.id IS NOT MISSING"), rules).await,
        "{\"id\": \"1\"}\n{\"id\": \"2\", \"expr\": \"z = DEBUG\"}\n"
    );
    assert_eq!(
        ask(document("SELECT s.Rules[0] AS first FROM S3Object[*] s LIMIT 1"), rules).await,
        "{\"first\":{\"id\": \"1\"}}\n"
    );
    assert_eq!(
        ask(document("SELECT s.Rules FROM S3Object[*] s LIMIT 1"), rules).await,
        "{\"Rules\":[{\"id\":\"1\"},{\"expr\":\"y > x\"},{\"id\":\"2\",\"expr\":\"z = DEBUG\"}]}\n"
    );
    assert_eq!(ask(document("SELECT COUNT(*) AS n FROM S3Object[*][*]"), "[1, [2, 3], {}]").await, "{\"n\":3}\n");
    assert_eq!(
        ask(document("SELECT * FROM S3Object[*][*]"), "[1, [2, 3], {\"a\": 4}]").await,
        "{\"_1\":1}\n{\"_1\":[2, 3]}\n{\"a\": 4}\n"
    );
    let many: String = format!("[{}]", (0..20_000).map(|n| format!("{{\"n\": {n}}}")).collect::<Vec<_>>().join(","));
    assert_eq!(
        ask(document("SELECT SUM(s.n) AS t, MAX(s.n) FROM S3Object[*][*] s"), many).await,
        "{\"t\":199990000,\"_2\":19999}\n"
    );
    let tight = Limits { memory_bytes: 1 << 20, ..LIMITS };
    let long = format!("[\"{}\"]", "x".repeat(2 << 20));
    let error = answer_of(document("SELECT COUNT(*) FROM S3Object[*][*]"), Memory::new(long, 1 << 16), tight)
        .await
        .expect_err("too long");
    assert_eq!(error.code, Code::OverMaxRecordSize);
}

#[tokio::test]
async fn compressed_input_is_read_and_checked() {
    let text: String = (0..50_000).map(|n| format!("{n},value {n}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(text.as_bytes()).expect("memory");
    let bzip2 = bzip2.finish().expect("memory");
    let ask_for = |compression| Select {
        compression,
        ..csv("SELECT COUNT(*), SUM(CAST(_1 AS INT)) FROM S3Object", Header::None)
    };
    for (compression, packed) in [(Compression::Gzip, gzip), (Compression::Bzip2, bzip2)] {
        assert_eq!(ask(ask_for(compression), packed.clone()).await, "50000,1249975000\n");
        // Members one after another are one text.
        assert_eq!(ask(ask_for(compression), [packed.clone(), packed.clone()].concat()).await, "100000,2499950000\n");
        let (_, counts) =
            answer_of(ask_for(compression), Memory::new(packed.clone(), 1000), LIMITS).await.expect("an answer");
        assert_eq!((counts.scanned_bytes, counts.processed_bytes), (packed.len() as u64, text.len() as u64));
        assert_eq!(code(ask_for(compression), packed[..packed.len() - 20].to_vec()).await, Code::TruncatedInput);
        assert_eq!(code(ask_for(compression), text.clone()).await, Code::InvalidCompressionFormat);
    }
    // A bomb: records are bounded, whatever they were compressed from.
    let mut bomb = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bomb.write_all(&vec![b'0'; 64 << 20]).expect("memory");
    assert_eq!(code(ask_for(Compression::Bzip2), bomb.finish().expect("memory")).await, Code::OverMaxRecordSize);
}

#[tokio::test]
async fn scan_ranges_share_the_records_out() {
    let text: String = std::iter::once("n\n".to_owned()).chain((0..200).map(|n| format!("{n}\r\n"))).collect();
    for (select, body) in [
        (csv("SELECT n FROM S3Object", Header::Use), text.clone()),
        (csv("SELECT _1 FROM S3Object", Header::Ignore), text),
        (csv("SELECT _1 FROM S3Object", Header::None), (0..200).map(|n| format!("{n}\n")).collect()),
        (json("SELECT s.n FROM S3Object s", JsonKind::Lines), (0..200).map(|n| format!("{{\"n\": {n}}}\n")).collect()),
    ] {
        let whole = ask(select.clone(), body.clone()).await;
        for step in [1, 7, 100, 10_000] {
            let mut parts = String::new();
            for start in (0..body.len() as u64).step_by(step) {
                let scan = Some(Scan { start: Some(start), end: Some(start + step as u64 - 1) });
                let object = Memory::new(body.clone(), 64);
                parts += &answer_of(Select { scan, ..select.clone() }, object, LIMITS).await.expect("a part").0;
            }
            assert_eq!(parts, whole, "{} in steps of {step}", select.expression);
        }
    }
    let last =
        Select { scan: Some(Scan { start: None, end: Some(4) }), ..csv("SELECT _1 FROM S3Object", Header::None) };
    assert_eq!(ask(last, "a\nb\nc\nd\n").await, "c\nd\n");
}

fn table(rows: i64) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let small: ArrayRef = Arc::new(
        (0..rows).map(|n| (n % 3 > 0).then_some(i32::try_from(n % 100).expect("small"))).collect::<Int32Array>(),
    );
    let names: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("name {n} {}", "x".repeat(200)))));
    let prices: ArrayRef = Arc::new(
        Decimal128Array::from_iter_values((0..rows).map(|n| i128::from(n) * 25))
            .with_precision_and_scale(12, 2)
            .expect("fits"),
    );
    let ratios: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|n| n as f64 / 4.0)));
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values((0..rows).map(|n| n * 86_400_000)));
    let inner: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("in {n}"))));
    let nested: ArrayRef =
        Arc::new(StructArray::from(vec![(Arc::new(Field::new("Deep", DataType::Utf8, true)), inner)]));
    let batch = RecordBatch::try_from_iter([
        ("id", ids),
        ("small", small),
        ("name", names),
        ("price", prices),
        ("ratio", ratios),
        ("at", times),
        ("box", nested),
    ])
    .expect("a batch");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(1000))
        .set_compression(Codec::SNAPPY)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("written");
    writer.into_inner().expect("closed")
}

#[tokio::test]
async fn parquet_columns_have_their_types() {
    let file = table(2500);
    assert_eq!(
        ask(parquet("SELECT s.ID, s.small, s.price, s.ratio, s.\"at\", s.box.deep FROM S3Object s WHERE s.id >= 2497 AND s.small > 0"), file.clone()).await,
        "{\"ID\":2497,\"small\":97,\"price\":624.25,\"ratio\":624.25,\"at\":\"1976-11-02T00:00:00Z\",\"deep\":\"in 2497\"}\n\
         {\"ID\":2498,\"small\":98,\"price\":624.5,\"ratio\":624.5,\"at\":\"1976-11-03T00:00:00Z\",\"deep\":\"in 2498\"}\n"
    );
    assert_eq!(
        ask(
            parquet("SELECT COUNT(*), COUNT(small), SUM(price), AVG(ratio), MIN(\"at\"), MAX(id) FROM S3Object"),
            file.clone()
        )
        .await,
        "{\"_1\":2500,\"_2\":1666,\"_3\":780937.5,\"_4\":312.375,\"_5\":\"1970-01-01T00:00:00Z\",\"_6\":2499}\n"
    );
    assert_eq!(
        ask(parquet("SELECT id FROM S3Object WHERE \"at\" = TO_TIMESTAMP('1970-01-03')"), file.clone()).await,
        "{\"id\":2}\n"
    );
    assert_eq!(
        ask(parquet("SELECT id FROM S3Object WHERE name LIKE 'name 24__ %' AND price = 600.25"), file.clone()).await,
        "{\"id\":2401}\n"
    );
    assert_eq!(ask(parquet("SELECT _1 FROM S3Object WHERE id = '7'"), file.clone()).await, "{\"_1\":7}\n");
    let star = ask(parquet("SELECT * FROM S3Object LIMIT 1"), file.clone()).await;
    assert!(
        star.starts_with("{\"id\":0,\"small\":null,\"name\":\"name 0 x")
            && star.ends_with("\"box\":{\"Deep\":\"in 0\"}}\n"),
        "{star}"
    );
    assert_eq!(code(parquet("SELECT nothing FROM S3Object"), file.clone()).await, Code::MissingHeaders);
    assert_eq!(code(parquet("SELECT s.id.x FROM S3Object s"), file.clone()).await, Code::InvalidKeyPath);
    assert_eq!(code(parquet("SELECT id FROM S3Object[*].a"), file.clone()).await, Code::InvalidKeyPath);
    assert_eq!(code(parquet("SELECT id FROM S3Object"), &b"not parquet at all"[..]).await, Code::ParquetParsingError);
    assert_eq!(code(parquet("SELECT id FROM S3Object"), Bytes::new()).await, Code::ParquetParsingError);
    assert_eq!(
        code(parquet("SELECT id FROM S3Object"), file[..file.len() - 9].to_vec()).await,
        Code::ParquetParsingError
    );
}

#[tokio::test]
async fn of_parquet_only_what_is_needed_is_read() {
    let file = table(20_000);
    let read = async |expression: &str| {
        let object = Memory::new(file.clone(), 1 << 20);
        let (out, counts) = answer_of(parquet(expression), object.clone(), LIMITS).await.expect("an answer");
        assert_eq!(counts.scanned_bytes, object.read_bytes.load(Ordering::Relaxed));
        (out, counts.scanned_bytes)
    };
    let (_, footer) = read("SELECT COUNT(*) FROM S3Object").await;
    let (_, all) = read("SELECT * FROM S3Object").await;
    let (_, one) = read("SELECT id FROM S3Object").await;
    let (out, pruned) = read("SELECT id FROM S3Object WHERE id = 15000").await;
    assert_eq!(out, "{\"id\":15000}\n");
    assert!(all as usize >= file.len() && footer <= 70_000, "{all} {footer}");
    assert!(one < footer + 20_000 * 9 + 20_000, "one column of seven: {one} of {all}");
    assert!(pruned < footer + 20_000, "one row group of twenty: {pruned}, the column {one}");
    let tight = Limits { memory_bytes: 100_000, ..LIMITS };
    let error = answer_of(parquet("SELECT name FROM S3Object"), Memory::new(table(5000), 1 << 20), tight).await;
    assert!(error.is_ok(), "compressed well, a row group is small: {error:?}");
    let tight = Limits { memory_bytes: 5_000, ..LIMITS };
    let error = answer_of(parquet("SELECT id FROM S3Object"), Memory::new(table(5000), 1 << 20), tight)
        .await
        .expect_err("too large");
    assert_eq!(error.code, Code::OverMaxParquetBlockSize);
}

#[tokio::test]
async fn a_damaged_parquet_file_is_an_error_and_no_more() {
    let file = table(50);
    // A byte changed at a time, all over the footer and here and there in the data.
    let places = (file.len() - 1500..file.len()).step_by(3).chain((0..file.len() - 1500).step_by(97));
    for at in places {
        let mut damaged = file.clone();
        damaged[at] ^= 0x55;
        let _ = answer_of(parquet("SELECT * FROM S3Object"), Memory::new(damaged, 1 << 20), LIMITS).await;
    }
}

#[tokio::test]
async fn long_records_and_long_queries_are_refused() {
    let long = format!("{}\nb\n", "x".repeat((1 << 20) + 1));
    for quoted_record_delimiter in [false, true] {
        let input = Input::Csv(CsvInput { quoted_record_delimiter, ..CsvInput::default() });
        let select = Select { input, ..csv("SELECT _1 FROM S3Object", Header::None) };
        assert_eq!(code(select, long.clone()).await, Code::OverMaxRecordSize);
    }
    assert_eq!(
        code(json("SELECT s.a FROM S3Object s", JsonKind::Lines), format!("{{\"a\": \"{long}")).await,
        Code::OverMaxRecordSize
    );
    let twice = csv("SELECT _1, _1 FROM S3Object", Header::None);
    assert_eq!(code(twice, "x".repeat(600_000)).await, Code::OverMaxRecordSize);
    let or = |count: usize| format!("SELECT _1 FROM S3Object WHERE _1 = 'b'{}", " OR _1 = 'c'".repeat(count));
    assert_eq!(ask(csv(&or(1500), Header::None), "a\nb\n").await, "b\n");
    assert_eq!(code(csv(&or(6000), Header::None), "a\nb\n").await, Code::MaxOperatorsExceeded);
    let plus = format!("SELECT 1{} FROM S3Object", " + 1".repeat(200));
    assert_eq!(code(csv(&plus, Header::None), "a\n").await, Code::MaxOperatorsExceeded);
    let not = format!("SELECT {} 1 = 1 FROM S3Object", "NOT ".repeat(5000));
    assert_eq!(code(csv(&not, Header::None), "a\n").await, Code::MaxOperatorsExceeded);
}

#[tokio::test(start_paused = true)]
async fn time_is_bounded_and_silence_is_broken() {
    struct Stuck;
    impl Object for Stuck {
        fn size_bytes(&self) -> u64 {
            100
        }
        fn read(&self, _: Range<u64>) -> Reading {
            stream::iter([Ok(Bytes::from_static(b"a\n"))]).chain(stream::pending()).boxed()
        }
    }
    let limits = Limits { time: Duration::from_secs(10), ..LIMITS };
    for (progress, expected) in [
        (false, Event::Cont),
        (true, Event::Progress(Counts { scanned_bytes: 2, processed_bytes: 2, returned_bytes: 0 })),
    ] {
        let select = Select { progress, ..csv("SELECT _1 FROM S3Object", Header::None) };
        let mut events = run(select, Arc::new(Stuck), limits).await.expect("begins");
        for _ in 0..3 {
            assert_eq!(events.next().await.expect("an event").expect("no error"), expected);
        }
        assert_eq!(events.next().await.expect("an event").expect_err("too slow").code, Code::Busy);
        assert!(events.next().await.is_none());
    }
    let select = csv("SELECT a FROM S3Object", Header::Use);
    struct Silent;
    impl Object for Silent {
        fn size_bytes(&self) -> u64 {
            100
        }
        fn read(&self, _: Range<u64>) -> Reading {
            stream::pending().boxed()
        }
    }
    assert_eq!(run(select, Arc::new(Silent), limits).await.err().expect("too slow").code, Code::Busy);
}

#[tokio::test]
async fn a_limit_ends_the_reading_and_big_answers_come_in_pieces() {
    let text: String = (0..200_000).map(|n| format!("{n},{}\n", "y".repeat(40))).collect();
    let (out, counts) =
        answer_of(csv("SELECT _1 FROM S3Object LIMIT 2", Header::None), Memory::new(text.clone(), 1 << 16), LIMITS)
            .await
            .expect("an answer");
    assert_eq!(out, "0\n1\n");
    assert!(counts.scanned_bytes < 2 << 20, "{counts:?}");
    let progress = Select { progress: true, ..csv("SELECT * FROM S3Object", Header::None) };
    let mut events = run(progress, Memory::new(text.clone(), 1 << 16), LIMITS).await.expect("begins");
    let (mut out, mut pieces, mut told) = (Vec::new(), 0, 0);
    while let Some(event) = events.next().await {
        match event.expect("no error") {
            Event::Records(bytes) => {
                assert!(bytes.len() < 256 << 10);
                out.extend_from_slice(&bytes);
                pieces += 1;
            }
            Event::Progress(_) => told += 1,
            _ => {}
        }
    }
    assert!(out == text.as_bytes() && pieces > 50 && told >= 1);
}
