//! Tests of sources in a bucket, against a small server of the S3 protocol in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use c360_ml::store::parquet::{concat, read};
use tiny_http::{Header, Request, Response, Server};
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::c360;
use crate::support::{EVENTS_FILE, PROFILE_FILE, edit, live, project, write};

const SECRET: &str = "a-secret-that-nobody-must-see";

/// A server of the bucket `data`, which counts what is read of each object.
struct Bucket {
    address: String,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// The bytes that were read, by key.
    read: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Bucket {
    fn start() -> Self {
        let server = Server::http("127.0.0.1:0").unwrap();
        let bucket = Self {
            address: format!("http://{}", server.server_addr()),
            objects: Arc::default(),
            read: Arc::default(),
        };
        let (objects, read) = (bucket.objects.clone(), bucket.read.clone());
        std::thread::spawn(move || {
            for request in server.incoming_requests() {
                let objects = objects.lock().unwrap();
                let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
                let (path, query) = (path.replace("%3D", "="), query.to_owned());
                match path.trim_start_matches('/').split_once('/') {
                    Some(("data", key)) if !key.is_empty() => {
                        let key = key.to_owned();
                        give(request, &key, objects.get(&key), &read);
                    }
                    Some(("closed", _)) => request.respond(Response::empty(403)).unwrap(),
                    _ => list(request, &query, &objects),
                }
            }
        });
        bucket
    }

    fn put(&self, key: &str, file: &Path) {
        self.objects.lock().unwrap().insert(key.to_owned(), std::fs::read(file).unwrap());
    }

    /// The bytes that were read since the last call, by key.
    fn read(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.read.lock().unwrap())
    }

    /// The stderr and the exit code of one call that may read the bucket.
    fn call(&self, project: &Path, arguments: &[&str]) -> (String, i32) {
        let output = c360(project)
            .args(arguments)
            .env("AWS_ENDPOINT_URL", &self.address)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_ACCESS_KEY_ID", "reader")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .output()
            .unwrap();
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!told.contains(SECRET), "{told}");
        (told, output.status.code().unwrap())
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).unwrap()
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{:016x}\"", xxh3_64(bytes))
}

/// Answers a request for an object, or for a range of it.
fn give(
    request: Request,
    key: &str,
    object: Option<&Vec<u8>>,
    read: &Mutex<BTreeMap<String, u64>>,
) {
    let Some(bytes) = object else {
        return request.respond(Response::empty(404)).unwrap();
    };
    let of = |name: &'static str| {
        let found = request.headers().iter().find(|header| header.field.equiv(name));
        found.map(|header| header.value.to_string())
    };
    if of("If-Match").is_some_and(|wanted| wanted != tag(bytes)) {
        return request.respond(Response::empty(412)).unwrap();
    }
    let range = of("Range").map(|range| {
        let range = range.trim_start_matches("bytes=").to_owned();
        let (start, end) = range.split_once('-').unwrap();
        start.parse::<usize>().unwrap()..(end.parse::<usize>().unwrap() + 1).min(bytes.len())
    });
    let modified = header("Last-Modified", "Mon, 01 Jul 2024 00:00:00 GMT");
    let headers = vec![modified, header("ETag", &tag(bytes))];
    let (status, part, headers) = match range {
        None => (200, bytes.clone(), headers),
        Some(range) => {
            let told = format!("bytes {}-{}/{}", range.start, range.end - 1, bytes.len());
            let content = header("Content-Range", &told);
            (206, bytes[range].to_vec(), [headers, vec![content]].concat())
        }
    };
    if *request.method() == tiny_http::Method::Get {
        *read.lock().unwrap().entry(key.to_owned()).or_default() += part.len() as u64;
    }
    let length = Some(part.len());
    let answer = Response::new(status.into(), headers, std::io::Cursor::new(part), length, None);
    // Objects have a length, also where a server would send them in chunks.
    request.respond(answer.with_chunked_threshold(usize::MAX)).unwrap();
}

/// Answers a request for the keys below a prefix.
fn list(request: Request, query: &str, objects: &BTreeMap<String, Vec<u8>>) {
    let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix="));
    let prefix = prefix.unwrap_or_default().replace("%2F", "/").replace("%3D", "=");
    let of = |(key, bytes): (&String, &Vec<u8>)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2024-07-01T00:00:00.000Z</LastModified>\
             <ETag>{}</ETag><Size>{}</Size></Contents>",
            tag(bytes).replace('"', "&quot;"),
            bytes.len()
        )
    };
    let found: String =
        objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(of).collect();
    let xml =
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>");
    request.respond(Response::from_string(xml)).unwrap();
}

/// A project whose sources are in the bucket, and one of the same rows on disk.
fn both(folder: &Path, bucket: &Bucket) -> (std::path::PathBuf, std::path::PathBuf) {
    let [on_disk, remote] = ["disk", "bucket"].map(|name| project(&folder.join(name)));
    bucket.put("crm/profile/part-000.parquet", &remote.join(PROFILE_FILE));
    bucket.put("crm/profile/_SUCCESS", &remote.join("c360.toml"));
    bucket.put("crm/events/part-000.parquet", &remote.join(EVENTS_FILE));
    edit(&remote, "c360.toml", "fixtures/profile", "s3://data/crm/profile");
    edit(&remote, "c360.toml", "fixtures/events", "s3://data/crm/events");
    std::fs::remove_dir_all(remote.join("fixtures")).unwrap();
    (on_disk, remote)
}

#[test]
fn sources_in_a_bucket_give_the_bytes_of_those_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::start();
    let (on_disk, remote) = both(folder.path(), &bucket);
    let same = |arguments: &[&str]| {
        for project in [&on_disk, &remote] {
            let (told, code) = bucket.call(project, arguments);
            assert_eq!(code, 0, "{told}");
        }
        let tables = |project: &Path| {
            let names = crate::support::root(project)["files"].clone();
            let names = names.as_object().unwrap().keys().cloned();
            let names = names.filter(|name| name.starts_with("features/"));
            let rows = |name: String| (name.clone(), std::fs::read(live(project, &name)).unwrap());
            names.map(rows).collect::<BTreeMap<_, _>>()
        };
        let (of_disk, of_bucket) = (tables(&on_disk), tables(&remote));
        assert!(!of_disk.is_empty());
        assert!(of_disk == of_bucket, "{:?} and {:?}", of_disk.keys(), of_bucket.keys());
    };
    same(&["features", "build"]);
    let events = std::fs::metadata(on_disk.join(EVENTS_FILE)).unwrap().len();
    let first = bucket.read();
    assert!(
        first["crm/events/part-000.parquet"] > 0 && !first.contains_key("crm/profile/_SUCCESS")
    );

    // The night after, another file of events is there. Of the old one, only the footer is read.
    let rows = concat(&read(&on_disk.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let (few, ids) = (rows.slice(0, 500), "event_id");
    let renamed = few.column_by_name(ids).unwrap().as_string::<i32>().iter();
    let renamed = renamed.map(|id| id.map(|id| format!("{id}-again")));
    let renamed: arrow_array::StringArray = renamed.collect();
    let few = crate::support::with_column(&few, ids, Arc::new(renamed));
    let new = on_disk.join("fixtures/events/part-001.parquet");
    write(&new, &few);
    bucket.put("crm/events/part-001.parquet", &new);
    same(&["features", "build", "--as-of", "2024-07-02"]);
    let second = bucket.read();
    assert!(second["crm/events/part-001.parquet"] > 0);
    assert!(second["crm/events/part-000.parquet"] < events, "{second:?} of {events}");
}

#[test]
fn what_a_bucket_lacks_or_refuses_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::start();
    let (_, remote) = both(folder.path(), &bucket);
    edit(&remote, "c360.toml", "s3://data/crm/events", "s3://data/crm/evnets");
    let (told, code) = bucket.call(&remote, &["validate"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("s3://data/crm/evnets"), "{told}");
    edit(&remote, "c360.toml", "s3://data/crm/evnets", "s3://data/crm/events/part-*.parquet");
    let (told, code) = bucket.call(&remote, &["validate"]);
    assert_eq!(code, 0, "{told}");
    edit(&remote, "c360.toml", "s3://data/crm/events/part-*.parquet", "hdfs://data/crm/events");
    let (told, code) = bucket.call(&remote, &["validate"]);
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("s3://, gs://, az:// or abfss://"), "{told}");
    // An object that is no Parquet file is named with its URL.
    edit(&remote, "c360.toml", "hdfs://data/crm/events", "s3://data/crm/events");
    bucket.put("crm/events/part-000.parquet", &remote.join("c360.toml"));
    let (told, code) = bucket.call(&remote, &["validate"]);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("s3://data/crm/events/part-000.parquet"), "{told}");
    // A request that is refused says what to check.
    edit(&remote, "c360.toml", "s3://data/crm/events", "s3://closed/crm/events");
    let (told, code) = bucket.call(&remote, &["validate"]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("s3://closed/crm/events") && told.contains("AWS_ACCESS_KEY_ID"),
        "{told}"
    );
}
