//! A small server of buckets in this process, by the protocols of Amazon S3 and of Google Cloud Storage: objects, ranges,
//! conditional puts, uploads in parts, lists and removals. Every request is applied as a whole, one after another, so
//! that of two who create an object one does. It counts what is read, and can kill a client in the middle of its work
//! or let two clients meet.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response};
use xxhash_rust::xxh3::xxh3_64;

pub const SECRET: &str = "a-secret-that-nobody-must-see";
/// The key that may use the bucket, in this region.
pub const READER: &str = "reader";
pub const REGION: &str = "eu-central-1";
/// The number of keys in one answer to a list request.
const PAGE: usize = 1000;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// The parts of unfinished uploads, by upload.
    uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    started: usize,
    /// The bytes that were read, by key.
    read: BTreeMap<String, u64>,
    /// The requests since the last call.
    requests: usize,
    /// What is answered with an error when it is written, before or after it is applied: the end of a key.
    refused: Option<(String, Moment)>,
    /// A process that is killed at the request of this number, before or after it is applied.
    kill: Option<(u32, usize, Moment)>,
}

/// When a client is killed or told that its request failed: before the request is applied, or after that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    Before,
    After,
}

/// A server of the buckets `data`, which may be used, and `closed`, which may not.
#[derive(Clone)]
pub struct BucketServer {
    pub address: String,
    state: Arc<Mutex<State>>,
    /// The clients that are about to create a root, if they wait for another one.
    meeting: Arc<(Mutex<Option<usize>>, Condvar)>,
}

impl BucketServer {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let bucket = Self { address, state: Arc::default(), meeting: Arc::default() };
        let shared = bucket.clone();
        let answer = async move |request: Request<Body>| {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let request = Request::from_parts(head, body.to_vec());
            tokio::task::spawn_blocking(move || shared.answer(&request)).await.unwrap()
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, Router::new().fallback(answer)).await.unwrap();
            });
        });
        bucket
    }

    pub fn put(&self, key: &str, file: &Path) {
        self.state.lock().unwrap().objects.insert(key.to_owned(), std::fs::read(file).unwrap());
    }

    /// The bytes that were read since the last call, by key.
    pub fn read(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.state.lock().unwrap().read)
    }

    /// The number of requests since the last call.
    pub fn requests(&self) -> usize {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// The keys and lengths of the objects below a prefix.
    pub fn keys(&self, prefix: &str) -> BTreeMap<String, usize> {
        let state = self.state.lock().unwrap();
        let own = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        own.map(|(key, bytes)| (key.clone(), bytes.len())).collect()
    }

    /// Copies the objects below a prefix to a folder.
    pub fn copy(&self, prefix: &str, folder: &Path) {
        let state = self.state.lock().unwrap();
        for (key, bytes) in state.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
            let path = folder.join(key.trim_start_matches(prefix));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Takes the objects of another server for its own.
    pub fn restore(&self, objects: &BTreeMap<String, Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        state.objects = objects.clone();
        state.uploads.clear();
    }

    /// All objects.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.lock().unwrap().objects.clone()
    }

    /// A call without credentials.
    pub fn command(&self, project: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("c360-ml"));
        let foreign = ["C360_", "AWS_", "GOOGLE_"];
        let foreign = |name: &String| foreign.iter().any(|start| name.starts_with(start));
        for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        command
            .current_dir(project)
            .args(arguments)
            // No profile of who runs the tests.
            .env("HOME", project)
            .env("AWS_ALLOW_HTTP", "true")
            .env("GOOGLE_BASE_URL", &self.address)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a call that may use the bucket.
    pub fn spawn(&self, project: &Path, arguments: &[&str]) -> Child {
        self.command(project, arguments)
            .env("AWS_ENDPOINT_URL", &self.address)
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", READER)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("GOOGLE_BEARER_TOKEN", SECRET)
            .spawn()
            .unwrap()
    }

    /// The stdout and stderr and the exit code of one call that may use the bucket.
    pub fn call(&self, project: &Path, arguments: &[&str]) -> (String, i32) {
        ended(self.spawn(project, arguments))
    }

    /// Runs a call that is killed at the request of this number. Returns whether it came so far.
    pub fn call_killed(
        &self,
        project: &Path,
        arguments: &[&str],
        request: usize,
        moment: Moment,
    ) -> bool {
        let child = {
            let mut state = self.state.lock().unwrap();
            state.requests = 0;
            let child = self.spawn(project, arguments);
            state.kill = Some((child.id(), request, moment));
            child
        };
        child.wait_with_output().unwrap();
        self.state.lock().unwrap().kill.take().is_none()
    }

    /// Answers requests to write a key with this end by an error.
    pub fn refuse(&self, end: &str, moment: Moment) {
        self.state.lock().unwrap().refused = Some((end.to_owned(), moment));
    }

    /// Answers all requests again.
    pub fn refuse_nothing(&self) {
        self.state.lock().unwrap().refused = None;
    }

    /// Runs two calls that meet before each of them creates a root: neither creates one before the other one is about
    /// to. Notes of leases are lost, so that neither call spares itself the work.
    pub fn call_both(&self, project: &Path, calls: [&[&str]; 2]) -> [(String, i32); 2] {
        *self.meeting.0.lock().unwrap() = Some(0);
        let ends = calls.map(|arguments| self.spawn(project, arguments)).map(ended);
        *self.meeting.0.lock().unwrap() = None;
        ends
    }

    fn meet(&self) {
        let (waiting, changed) = &*self.meeting;
        let mut waiting = waiting.lock().unwrap();
        let Some(count) = waiting.as_mut() else { return };
        *count += 1;
        changed.notify_all();
        let alone = |count: &mut Option<usize>| count.is_some_and(|count| count < 2);
        drop(changed.wait_timeout_while(waiting, Duration::from_secs(60), alone).unwrap());
    }

    fn answer(&self, request: &Request<Vec<u8>>) -> Answer {
        let path = decoded(request.uri().path());
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let key = key.to_owned();
        let query: BTreeMap<String, String> = (request.uri().query().unwrap_or_default())
            .split('&')
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        if bucket != "data" || !is_allowed(request) {
            return answer(403, vec![], Vec::new());
        }
        if creates(request) {
            self.meet();
        }
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        let kill = state.kill.filter(|(_, at, _)| *at == state.requests);
        if let Some((process, _, Moment::Before)) = kill {
            state.kill = None;
            kill_process(process);
            return answer(503, vec![], Vec::new());
        }
        let is_refused = |(end, _): &&(String, Moment)| {
            *request.method() == Method::PUT && key.ends_with(end.as_str())
        };
        let refused = state.refused.as_ref().filter(is_refused).map(|(_, moment)| *moment);
        if refused == Some(Moment::Before) {
            return answer(403, vec![], Vec::new());
        }
        let leased = self.meeting.0.lock().unwrap().is_some() && key.ends_with("lease.json");
        let given = match *request.method() {
            Method::GET if key.is_empty() => list(&query, &state.objects),
            Method::GET | Method::HEAD => give(request, &key, &mut state),
            Method::PUT if leased => answer(200, versions(request.body()), Vec::new()),
            Method::PUT => take(request, key, &query, &mut state),
            Method::POST if query.contains_key("delete") => remove(request.body(), &mut state),
            Method::POST => upload(&key, &query, &mut state),
            Method::DELETE => {
                match query.get("uploadId") {
                    Some(upload) => drop(state.uploads.remove(upload)),
                    None => drop(state.objects.remove(&key)),
                }
                answer(204, vec![], Vec::new())
            }
            _ => answer(405, vec![], Vec::new()),
        };
        if let Some((process, ..)) = kill {
            state.kill = None;
            kill_process(process);
        }
        if refused.is_some() { answer(403, vec![], Vec::new()) } else { given }
    }
}

type Answer = Response<Body>;
type Header = (HeaderName, HeaderValue);

pub fn ended(child: Child) -> (String, i32) {
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!told.contains(SECRET), "{told}");
    (told, output.status.code().unwrap_or(-1))
}

fn kill_process(process: u32) {
    Command::new("kill").args(["-9", &process.to_string()]).status().unwrap();
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hexadecimal = |rest: &mut std::str::Bytes| {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        };
        bytes.push(if byte == b'%' { hexadecimal(&mut rest) } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

fn header<T>(request: &Request<T>, name: &'static str) -> Option<String> {
    request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// Whether a request comes from who may use the bucket.
fn is_allowed<T>(request: &Request<T>) -> bool {
    let authorization = header(request, "Authorization").unwrap_or_default();
    let scope: Vec<&str> = authorization.split(['=', '/', ' ']).collect();
    let is_signed = scope.get(2) == Some(&READER) && scope.get(4) == Some(&REGION);
    is_signed || authorization == format!("Bearer {SECRET}")
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{:016x}\"", xxh3_64(bytes))
}

/// The headers that tell one content of an object from another, in both protocols.
fn versions(bytes: &[u8]) -> Vec<Header> {
    let generation = (xxh3_64(bytes) >> 1).to_string();
    vec![named("ETag", &tag(bytes)), named("x-goog-generation", &generation)]
}

/// Whether a request creates an object, if there is none of its name.
fn creates<T>(request: &Request<T>) -> bool {
    let condition = ["If-None-Match", "x-goog-if-generation-match"];
    let is_there = condition.iter().any(|name| header(request, name).is_some());
    *request.method() == Method::PUT && is_there
}

fn named(name: &'static str, value: &str) -> Header {
    (name.parse().unwrap(), value.parse().unwrap())
}

fn answer(status: u16, headers: Vec<Header>, body: Vec<u8>) -> Answer {
    let mut answer = Response::builder().status(status).body(Body::from(body)).unwrap();
    answer.headers_mut().extend(headers);
    answer
}

fn xml(text: String) -> Answer {
    answer(200, vec![], text.into_bytes())
}

/// Answers a request for an object, or for a range of it.
fn give(request: &Request<Vec<u8>>, key: &str, state: &mut State) -> Answer {
    let Some(bytes) = state.objects.get(key) else { return answer(404, vec![], Vec::new()) };
    if header(request, "If-Match").is_some_and(|wanted| wanted != tag(bytes)) {
        return answer(412, vec![], Vec::new());
    }
    let range = header(request, "Range").map(|range| {
        let range = range.trim_start_matches("bytes=").to_owned();
        let (start, end) = range.split_once('-').unwrap();
        start.parse::<usize>().unwrap()..(end.parse::<usize>().unwrap() + 1).min(bytes.len())
    });
    let modified = named("Last-Modified", "Mon, 01 Jul 2024 00:00:00 GMT");
    let headers = [vec![modified], versions(bytes)].concat();
    let (status, part, headers) = match range {
        None => (200, bytes.clone(), headers),
        Some(range) => {
            let told = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
            let content = named("Content-Range", &told);
            (206, bytes[range].to_vec(), [headers, vec![content]].concat())
        }
    };
    if *request.method() == Method::GET {
        *state.read.entry(key.to_owned()).or_default() += part.len() as u64;
    }
    answer(status, headers, part)
}

/// Takes an object, or a part of an upload.
fn take(
    request: &Request<Vec<u8>>,
    key: String,
    query: &BTreeMap<String, String>,
    state: &mut State,
) -> Answer {
    let body = request.body().clone();
    let told = versions(&body);
    if let Some(upload) = query.get("uploadId") {
        let Some(parts) = state.uploads.get_mut(upload) else { return answer(404, vec![], vec![]) };
        parts.insert(query["partNumber"].parse().unwrap(), body);
        return answer(200, told, Vec::new());
    }
    if creates(request) && state.objects.contains_key(&key) {
        return answer(412, vec![], Vec::new());
    }
    state.objects.insert(key, body);
    answer(200, told, Vec::new())
}

/// Starts an upload, or makes an object of its parts.
fn upload(key: &str, query: &BTreeMap<String, String>, state: &mut State) -> Answer {
    if let Some(upload) = query.get("uploadId") {
        let Some(parts) = state.uploads.remove(upload) else { return answer(404, vec![], vec![]) };
        let bytes: Vec<u8> = parts.into_values().flatten().collect();
        let tag = tag(&bytes).replace('"', "&quot;");
        state.objects.insert(key.to_owned(), bytes);
        return xml(format!(
            "<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
        ));
    }
    state.started += 1;
    let upload = format!("upload-{}", state.started);
    state.uploads.insert(upload.clone(), BTreeMap::new());
    xml(format!(
        "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
    ))
}

/// Removes the objects that a request names.
fn remove(body: &[u8], state: &mut State) -> Answer {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let keys = body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap());
    let mut removed = String::new();
    for key in keys {
        state.objects.remove(key);
        removed += &format!("<Deleted><Key>{key}</Key></Deleted>");
    }
    xml(format!("<DeleteResult>{removed}</DeleteResult>"))
}

/// Answers a request for the keys below a prefix.
fn list(query: &BTreeMap<String, String>, objects: &BTreeMap<String, Vec<u8>>) -> Answer {
    let of = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (of("prefix"), of("continuation-token").max(of("start-after")));
    let object = |(key, bytes): (&String, &Vec<u8>)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2024-07-01T00:00:00.000Z</LastModified>\
             <ETag>{}</ETag><Size>{}</Size></Contents>",
            tag(bytes).replace('"', "&quot;"),
            bytes.len()
        )
    };
    let found = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let found: Vec<_> = found.take(PAGE + 1).collect();
    let next = match found.get(PAGE - 1).filter(|_| found.len() > PAGE) {
        Some((key, _)) => format!("<NextContinuationToken>{key}</NextContinuationToken>"),
        None => String::new(),
    };
    let truncated = found.len() > PAGE;
    let page: String = found.into_iter().take(PAGE).map(object).collect();
    xml(format!(
        "<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{next}{page}</ListBucketResult>"
    ))
}
