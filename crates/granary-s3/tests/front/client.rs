//! HTTP/1.1 over a plain socket, signed by hand: nothing between the test and the bytes on the wire.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::{ACCESS_KEY, SECRET_KEY, element};
use crate::sign;

/// How a request is signed and its payload sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// SigV4 header with the payload's SHA-256.
    Signed,
    /// SigV4 header, `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, in chunks of so many bytes.
    Chunks(usize),
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`.
    ChunksTrailer(usize),
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`.
    UnsignedTrailer(usize),
    /// SigV4 query, valid so many seconds.
    Presigned(u64),
    /// SigV2 header.
    V2Header,
    /// SigV2 query, valid so many seconds.
    V2Query(u64),
    /// No signature.
    Anonymous,
}

#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
}

pub struct Request {
    address: SocketAddr,
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    auth: Auth,
    /// Trailer sent behind an aws-chunked body.
    trailer: Option<(String, String)>,
    secret: String,
    clock_shift_secs: i64,
    host: Option<String>,
    /// `Transfer-Encoding: chunked` instead of `Content-Length`.
    is_chunked: bool,
    /// Bytes of the body that are really sent before the connection is closed for writing.
    cut_at: Option<usize>,
    /// Sign with this SHA-256 instead of the payload's.
    payload_hash: Option<String>,
    /// Damage the chunk signatures.
    bad_chunk: bool,
    /// Sign the payload's hash without sending it, as curl does.
    no_hash_header: bool,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before `Content-Length` bytes had come.
    pub is_cut: bool,
    /// `100 Continue` came first.
    pub continued: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        assert!(self.header("x-amz-request-id").is_some_and(|id| id.len() == 16), "{:?}", self.headers);
        assert!(self.header("x-amz-id-2").is_some(), "{:?}", self.headers);
        self
    }

    /// An error document with this code, and everything else that belongs in it.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        let text = reply.text();
        assert_eq!(element(&text, "Code"), Some(code), "{text}");
        for name in ["Message", "Resource", "RequestId", "HostId"] {
            assert!(element(&text, name).is_some_and(|t| !t.is_empty()), "no {name} in {text}");
        }
        assert_eq!(element(&text, "RequestId"), reply.header("x-amz-request-id"));
        assert_eq!(reply.header("content-type"), Some("application/xml"), "{:?}", reply.headers);
        reply
    }

    #[track_caller]
    pub fn expect_header(self, name: &str, value: &str) -> Self {
        assert_eq!(self.header(name), Some(value), "{:?}", self.headers);
        self
    }

    #[track_caller]
    pub fn expect_no_header(self, name: &str) -> Self {
        assert_eq!(self.header(name), None, "{:?}", self.headers);
        self
    }

    #[track_caller]
    pub fn expect_body(self, body: &[u8]) -> Self {
        assert!(self.body == body, "{} bytes, {} wanted: {}", self.body.len(), body.len(), self.text());
        self
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub fn request(&self, method: &str, target: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(n, v)| (n.to_owned(), sign::encode(v)))
            .collect();
        Request {
            address: self.address,
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            headers: Vec::new(),
            body: Vec::new(),
            auth: Auth::Signed,
            trailer: None,
            secret: SECRET_KEY.to_owned(),
            clock_shift_secs: 0,
            host: None,
            is_chunked: false,
            cut_at: None,
            payload_hash: None,
            bad_chunk: false,
            no_hash_header: false,
        }
    }

    pub fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub fn head(&self, target: &str) -> Request {
        self.request("HEAD", target)
    }

    pub fn put(&self, target: &str) -> Request {
        self.request("PUT", target)
    }

    pub fn post(&self, target: &str) -> Request {
        self.request("POST", target)
    }

    pub fn delete(&self, target: &str) -> Request {
        self.request("DELETE", target)
    }

    /// Puts an object, expecting success.
    #[track_caller]
    pub fn store(&self, target: &str, body: &[u8]) -> Reply {
        self.put(target).body(body).send().expect(200)
    }
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// A query parameter that needs encoding.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((sign::encode(name), sign::encode(value)));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailer = Some((name.to_owned(), value.to_owned()));
        self
    }

    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = secret.to_owned();
        self
    }

    pub fn clock_shift(mut self, secs: i64) -> Self {
        self.clock_shift_secs = secs;
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn chunked(mut self) -> Self {
        self.is_chunked = true;
        self
    }

    pub fn cut_at(mut self, bytes: usize) -> Self {
        self.cut_at = Some(bytes);
        self
    }

    pub fn payload_hash(mut self, hash: &str) -> Self {
        self.payload_hash = Some(hash.to_owned());
        self
    }

    pub fn without_hash_header(mut self) -> Self {
        self.no_hash_header = true;
        self
    }

    pub fn bad_chunk(mut self) -> Self {
        self.bad_chunk = true;
        self
    }

    fn canonical(&self, query: &[(String, String)], headers: &[(String, String)], hash: &str) -> (String, String) {
        let mut pairs: Vec<_> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.sort();
        let mut sorted = headers.to_vec();
        sorted.sort();
        let names: Vec<_> = sorted.iter().map(|(n, _)| n.as_str()).collect();
        let names = names.join(";");
        let lines: String = sorted
            .iter()
            .map(|(n, v)| format!("{n}:{}\n", v.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        (format!("{}\n{}\n{}\n{lines}\n{names}\n{hash}", self.method, self.path, pairs.join("&")), names)
    }

    /// Signs, and frames the body: the target, the headers and the bytes to send.
    pub fn prepare(&self) -> (String, Vec<(String, String)>, Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = now.checked_add_signed(self.clock_shift_secs).unwrap();
        let date = sign::amz_date(now);
        let mut headers = self.headers.clone();
        headers.push(("host".to_owned(), self.host.clone().unwrap_or_else(|| self.address.to_string())));
        let mut query = self.query.clone();
        let mut body = self.body.clone();
        let streaming = match self.auth {
            Auth::Chunks(_) => Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            Auth::ChunksTrailer(_) => Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
            Auth::UnsignedTrailer(_) => Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            _ => None,
        };
        if streaming.is_some() {
            headers.push(("x-amz-decoded-content-length".to_owned(), self.body.len().to_string()));
            headers.push(("content-encoding".to_owned(), "aws-chunked".to_owned()));
            if let Some((name, _)) = &self.trailer {
                headers.push(("x-amz-trailer".to_owned(), name.clone()));
            }
        }
        match self.auth {
            Auth::Anonymous => {}
            Auth::V2Header | Auth::V2Query(_) => self.sign_v2(now, &mut query, &mut headers),
            Auth::Presigned(secs) => {
                for (name, value) in [
                    ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
                    ("X-Amz-Credential", format!("{ACCESS_KEY}/{}", sign::scope(&date))),
                    ("X-Amz-Date", date.clone()),
                    ("X-Amz-Expires", secs.to_string()),
                    ("X-Amz-SignedHeaders", "host".to_owned()),
                ] {
                    query.push((name.to_owned(), sign::encode(&value)));
                }
                let host: Vec<_> = headers.iter().filter(|(n, _)| n == "host").cloned().collect();
                let (canonical, _) = self.canonical(&query, &host, "UNSIGNED-PAYLOAD");
                query.push(("X-Amz-Signature".to_owned(), sign::v4(&self.secret, &date, &canonical)));
            }
            _ => {
                let hash = match (&self.payload_hash, streaming, &self.auth) {
                    (Some(hash), ..) => hash.clone(),
                    (_, Some(streaming), _) => streaming.to_owned(),
                    (_, _, Auth::Unsigned) => "UNSIGNED-PAYLOAD".to_owned(),
                    _ => sign::sha256_hex(&self.body),
                };
                headers.push(("x-amz-date".to_owned(), date.clone()));
                if !self.no_hash_header {
                    headers.push(("x-amz-content-sha256".to_owned(), hash.clone()));
                }
                let (canonical, names) = self.canonical(&query, &headers, &hash);
                let signature = sign::v4(&self.secret, &date, &canonical);
                body = self.frame(&date, &signature);
                headers.push((
                    "authorization".to_owned(),
                    format!(
                        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{}, SignedHeaders={names}, Signature={signature}",
                        sign::scope(&date)
                    ),
                ));
            }
        }
        if self.is_chunked {
            headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
            body = body
                .chunks(1000)
                .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                .chain(*b"0\r\n\r\n")
                .collect();
        } else if !body.is_empty() || matches!(self.method.as_str(), "PUT" | "POST") {
            headers.push(("content-length".to_owned(), body.len().to_string()));
        }
        let pairs: Vec<_> =
            query.iter().map(|(n, v)| if v.is_empty() { n.clone() } else { format!("{n}={v}") }).collect();
        let target = if pairs.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, pairs.join("&")) };
        (target, headers, body)
    }

    fn frame(&self, date: &str, seed: &str) -> Vec<u8> {
        let (size, is_signed) = match self.auth {
            Auth::Chunks(size) | Auth::ChunksTrailer(size) => (size, true),
            Auth::UnsignedTrailer(size) => (size, false),
            _ => return self.body.clone(),
        };
        let mut out = Vec::new();
        let mut previous = seed.to_owned();
        for chunk in self.body.chunks(size).chain([&[][..]]) {
            if is_signed {
                previous = sign::v4_chunk(&self.secret, date, &previous, chunk);
                let shown = if self.bad_chunk { "0".repeat(64) } else { previous.clone() };
                out.extend_from_slice(format!("{:x};chunk-signature={shown}\r\n", chunk.len()).as_bytes());
            } else {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            }
            out.extend_from_slice(chunk);
            if !chunk.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
        }
        if let Some((name, value)) = &self.trailer {
            out.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            if is_signed {
                let signature = sign::v4_trailer(&self.secret, date, &previous, &format!("{name}:{value}\n"));
                out.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    fn sign_v2(&self, now: u64, query: &mut Vec<(String, String)>, headers: &mut Vec<(String, String)>) {
        let at = match self.auth {
            Auth::V2Query(secs) => (now + secs).to_string(),
            _ => {
                let at = time::OffsetDateTime::from_unix_timestamp(i64::try_from(now).unwrap()).unwrap();
                let at = at.format(&time::format_description::well_known::Rfc2822).unwrap();
                headers.push(("date".to_owned(), at.clone()));
                at
            }
        };
        let find = |name: &str| headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
        let mut amz: Vec<_> = headers.iter().filter(|(n, _)| n.starts_with("x-amz-")).collect();
        amz.sort();
        let amz: String = amz.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
        let to_sign =
            format!("{}\n{}\n{}\n{at}\n{amz}{}", self.method, find("content-md5"), find("content-type"), self.path);
        let signature = sign::base64(&sign::hmac_sha1(self.secret.as_bytes(), to_sign.as_bytes()));
        if matches!(self.auth, Auth::V2Query(_)) {
            query.push(("AWSAccessKeyId".to_owned(), ACCESS_KEY.to_owned()));
            query.push(("Expires".to_owned(), at));
            query.push(("Signature".to_owned(), sign::encode(&signature)));
        } else {
            headers.push(("authorization".to_owned(), format!("AWS {ACCESS_KEY}:{signature}")));
        }
    }

    /// Sends this path and query as they are.
    pub fn raw_target(mut self, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap();
        self.path = path.to_owned();
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        self.query = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        self
    }

    /// The path and query of a presigned request.
    pub fn target(&self) -> String {
        self.prepare().0
    }

    pub fn send(self) -> Reply {
        let (target, headers, body) = self.prepare();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = format!("{} {target} HTTP/1.1\r\nconnection: close\r\n", self.method);
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let expects = headers.iter().any(|(n, _)| n == "expect");
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut reply = None;
        let mut continued = false;
        if expects {
            let (status, _) = read_head(&mut reader);
            continued = status == 100;
            if !continued {
                reply = Some(status);
            }
        }
        if reply.is_none() {
            // The server may answer and close before it has read everything.
            let _ = stream.write_all(&body[..self.cut_at.unwrap_or(body.len()).min(body.len())]);
            if self.cut_at.is_some() {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
        }
        let (status, headers) = match reply {
            Some(status) => (status, Vec::new()),
            None => read_head(&mut reader),
        };
        let (body, is_cut) = read_body(&mut reader, &headers, self.method == "HEAD" || status == 304 || status == 204);
        Reply { status, headers, body, is_cut, continued }
    }
}

fn read_head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() || line.is_empty() {
        return (0, Vec::new());
    }
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if line.is_empty() {
            return (status, headers);
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)], is_bare: bool) -> (Vec<u8>, bool) {
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if is_bare {
        return (body, false);
    }
    if let Some(len) = find("content-length") {
        let len: u64 = len.parse().unwrap();
        let _ = reader.take(len).read_to_end(&mut body);
        let is_cut = (body.len() as u64) < len;
        return (body, is_cut);
    }
    if find("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return (body, true);
            }
            let size = u64::from_str_radix(line.trim(), 16).unwrap();
            if size == 0 {
                return (body, false);
            }
            let before = body.len() as u64;
            let _ = reader.take(size).read_to_end(&mut body);
            if body.len() as u64 - before < size {
                return (body, true);
            }
            let _ = reader.read_line(&mut String::new());
        }
    }
    let _ = reader.read_to_end(&mut body);
    (body, false)
}
