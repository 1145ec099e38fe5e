//! Forms in pieces, forms that are refused, and signatures, the documentation's example among them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::*;
use futures::executor::block_on;
use http_body::Frame;
use http_body_util::BodyExt;

/// A body that comes in given pieces.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn pieces(form: &[u8], size: usize) -> Pieces {
    Pieces(form.chunks(size).map(Bytes::copy_from_slice).collect())
}

fn form(fields: &[(&str, &str)], file: &[u8], end: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.extend(format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes());
    }
    let head = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a.txt\"\r\nContent-Type: text/plain\r\n\r\n";
    out.extend(head.bytes());
    out.extend(file);
    out.extend(end.bytes());
    out
}

const END: &str = "\r\n--B--\r\n";

fn read(form: &[u8], piece: usize) -> Result<(Fields, Vec<u8>), String> {
    let trace = Arc::new(Trace::new(false, None));
    let code = |error: S3Error| error.code().as_str().to_owned();
    let (fields, file) =
        block_on(form::read(pieces(form, piece), "B", form.len() as u64, Arc::clone(&trace))).map_err(code)?;
    let announced = file.len();
    let bytes = match file {
        File::Whole(bytes) => bytes.to_vec(),
        File::Stream(body) => block_on(body.collect())
            .map_err(|_| code(trace.take_verdict().expect("a failed form has a verdict")))?
            .to_bytes()
            .to_vec(),
    };
    assert_eq!(announced, bytes.len() as u64);
    Ok((fields, bytes))
}

#[test]
fn forms_in_pieces_of_any_size() {
    let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for file in [&b""[..], b"\r\n--", b"small\r\n--C\r\n", &large] {
        let form = form(&[("kEy", "dir/${filename}"), ("x-amz-meta-a", "ü")], file, END);
        for piece in [1, 7, 1000, 70_000, usize::MAX] {
            if piece == 1 && file.len() > 1000 {
                continue;
            }
            let (mut fields, read) = read(&form, piece).unwrap();
            assert_eq!(read, file, "{piece}");
            fields.expand_filename();
            assert_eq!(fields.get("key"), Some("dir/a.txt"));
            assert_eq!(fields.get("x-amz-meta-a"), Some("ü"));
        }
    }
}

#[test]
fn forms_that_are_refused() {
    let large = vec![7; 100_000];
    let code = |form: &[u8]| read(form, 1000).unwrap_err();
    // A field behind the file means nothing in a small form; a large one cannot have it.
    let behind = "\r\n--B\r\nContent-Disposition: form-data; name=\"submit\"\r\n\r\nUpload\r\n--B--\r\n";
    assert_eq!(read(&form(&[], b"small", behind), 1000).unwrap().1, b"small");
    assert_eq!(code(&form(&[], &large, behind)), "MalformedPOSTRequest");
    assert_eq!(code(&form(&[], &large, "\r\n--B--")), "MalformedPOSTRequest");
    assert_eq!(code(&form(&[], &large, "\r\n--C--\r\n")), "MalformedPOSTRequest");
    assert_eq!(code(&form(&[], b"small", "\r\n--C--\r\n")), "MalformedPOSTRequest");
    assert_eq!(code(&form(&[("a", "1"), ("A", "2")], b"", END)), "InvalidArgument");
    assert_eq!(
        code(b"--B\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--B--\r\n"),
        "IncorrectNumberOfFilesInPostRequest"
    );
    assert_eq!(code(b"--B\r\nContent-Type: text/plain\r\n\r\nk\r\n--B--\r\n"), "MalformedPOSTRequest");
    assert_eq!(code(b"hello"), "IncompleteBody");
    let long = "v".repeat(21 * 1024);
    assert_eq!(code(&form(&[("a", &long)], b"", END)), "MaxPostPreDataLengthExceededError");
    assert_eq!(code(&vec![b'x'; 100_000]), "MaxPostPreDataLengthExceededError");
}

#[test]
fn a_form_that_ends_early_is_no_file() {
    let whole = form(&[], &vec![7; 100_000], END);
    let trace = Arc::new(Trace::new(false, None));
    let cut = &whole[..whole.len() - 50];
    let (_, file) = block_on(form::read(pieces(cut, 1000), "B", whole.len() as u64, Arc::clone(&trace))).unwrap();
    let File::Stream(body) = file else { panic!("a large form is streamed") };
    assert!(block_on(body.collect()).is_err());
    assert_eq!(trace.take_verdict().unwrap().code(), &S3ErrorCode::IncompleteBody);
}

#[test]
fn boundaries() {
    assert_eq!(form::boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
    assert_eq!(form::boundary("multipart/form-data; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
    assert_eq!(form::boundary("multipart/form-data"), None);
    assert_eq!(form::boundary("multipart/form-data; boundary="), None);
    assert_eq!(form::boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
}

#[test]
fn signatures() {
    // The example of AWS's documentation, "POST-based uploads".
    let pairs = [
        ("x-amz-credential", "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-date", "20151229T000000Z"),
        ("policy", include_str!("policy-example.b64").trim()),
        ("x-amz-signature", "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e"),
    ];
    let fields = |change: &dyn Fn(&str) -> Option<&'static str>| Fields {
        pairs: pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), change(name).unwrap_or(value).to_owned()))
            .collect(),
        filename: String::new(),
    };
    let then = Timestamp::from_secs(1_451_347_200);
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let good = fields(&|_| None);
    let signed = Signed::of(&good, then, 900).unwrap().unwrap();
    assert_eq!(signed.access_key, "AKIAIOSFODNN7EXAMPLE");
    signed.verify(secret).unwrap();
    assert!(signed.verify("another-secret").is_err());
    let week_later = Timestamp::from_secs(1_451_347_200 + 8 * 86400);
    assert_eq!(Signed::of(&good, week_later, 900).unwrap_err().code(), &S3ErrorCode::AccessDenied);
    let other_day = fields(&|name| (name == "x-amz-date").then_some("20151230T000000Z"));
    assert!(Signed::of(&other_day, then, 900).is_err());
    let region = "AKIAIOSFODNN7EXAMPLE/20151229/eu-west-1/s3/aws4_request";
    let other_region = fields(&|name| (name == "x-amz-credential").then_some(region));
    assert!(Signed::of(&other_region, then, 900).unwrap().unwrap().verify(secret).is_err());
    for name in ["policy", "x-amz-credential", "x-amz-algorithm", "x-amz-date", "x-amz-signature"] {
        let mut without = fields(&|_| None);
        without.pairs.retain(|(other, _)| other != name);
        assert_eq!(Signed::of(&without, then, 900).unwrap_err().code(), &S3ErrorCode::InvalidArgument, "{name}");
    }
    assert!(Signed::of(&Fields::default(), then, 900).unwrap().is_none());
}

#[test]
fn redirects() {
    let to = |target| redirect_target(target, "b", "a/ü", "\"e\"");
    assert_eq!(to("http://x/p").unwrap(), "http://x/p?bucket=b&key=a%2F%C3%BC&etag=%22e%22");
    assert_eq!(to("https://x/p?q=1#f").unwrap(), "https://x/p?q=1&bucket=b&key=a%2F%C3%BC&etag=%22e%22#f");
    for bad in ["", "/p", "javascript:alert(1)", "x"] {
        assert_eq!(to(bad), None, "{bad}");
    }
}
