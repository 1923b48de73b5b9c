//! Tests of sources and a store in a bucket, against a small server in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use c360_ml::store::parquet::{Writer, concat, read};

use crate::bucket_server::{BucketServer, Moment, READER, REGION, SECRET, ended};
use crate::cli::data_files;
use crate::support::{EVENTS_FILE, PROFILE_FILE, edit, live, project, write};

/// A project whose sources are in the bucket, and one of the same rows on disk.
fn both(folder: &Path, bucket: &BucketServer) -> (PathBuf, PathBuf) {
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
    let bucket = BucketServer::start();
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
    let first = bucket.read();
    assert!(
        first["crm/events/part-000.parquet"] > 0 && !first.contains_key("crm/profile/_SUCCESS")
    );

    // The night after, another file of events is there. Of the old one, nothing is read.
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
    assert!(!second.contains_key("crm/events/part-000.parquet"), "{second:?}");
}

#[test]
fn what_a_bucket_lacks_or_refuses_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
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

/// A profile of AWS gives keys, or a program that prints them, with the region and the address of the server.
#[test]
fn a_profile_of_aws_gives_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let (_, remote) = both(folder.path(), &bucket);
    std::fs::create_dir(remote.join(".aws")).unwrap();
    let keys = format!("aws_access_key_id = {READER}\naws_secret_access_key = {SECRET}\n");
    let printed = serde_json::json!({
        "Version": 1, "AccessKeyId": READER, "SecretAccessKey": SECRET, "SessionToken": "token",
        "Expiration": "2124-01-01T00:00:00Z",
    });
    std::fs::write(remote.join("printed.json"), printed.to_string()).unwrap();
    let place = format!("region = {REGION}\nendpoint_url = {}\n", bucket.address);
    let config = format!(
        "[default]\n{place}\n[profile nightly]\n{place}\n[profile printed]\n{place}\
         credential_process = cat printed.json\n\n[profile broken]\n{place}\
         credential_process = cat nothing.json\n"
    );
    std::fs::write(remote.join(".aws/config"), config).unwrap();
    std::fs::write(remote.join(".aws/credentials"), format!("[nightly]\n{keys}")).unwrap();
    let validate = |profile: &str| {
        let mut command = bucket.command(&remote, &["validate"]);
        ended(command.env("AWS_PROFILE", profile).spawn().unwrap())
    };
    for profile in ["nightly", "printed"] {
        let (told, code) = validate(profile);
        assert_eq!(code, 0, "{profile}: {told}");
    }
    for (profile, message) in [
        ("default", "it has neither keys nor credential_process"),
        ("other", "it has neither keys nor credential_process"),
        ("broken", "nothing.json"),
    ] {
        let (told, code) = validate(profile);
        assert_eq!(code, 1, "{profile}: {told}");
        assert!(told.contains(&format!("the profile {profile} gives no credentials")), "{told}");
        assert!(told.contains(message) && told.contains("AWS_PROFILE"), "{told}");
    }
}

/// A project whose store is in the bucket, which `scheme` says how to reach.
fn remote_store(folder: &Path, scheme: &str) -> PathBuf {
    let remote = project(folder);
    let store = format!("store = \"{scheme}://data/ml/store\"");
    edit(&remote, "c360.toml", "store = \"store\"", &store);
    remote
}

#[test]
fn a_store_in_a_bucket_of_s3_has_the_files_of_one_on_disk() {
    has_the_files_of_one_on_disk("s3");
}

#[test]
fn a_store_in_a_bucket_of_google_cloud_has_the_files_of_one_on_disk() {
    has_the_files_of_one_on_disk("gs");
}

/// The whole job with a store in a bucket leaves the data files that it leaves on disk, byte for byte.
fn has_the_files_of_one_on_disk(scheme: &str) {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let on_disk = project(&folder.path().join("disk"));
    let remote = remote_store(&folder.path().join("bucket"), scheme);
    let copy = folder.path().join("copy");
    for arguments in [
        &["run"][..],
        &["score", "--as-of", "2024-07-02"],
        &["score", "--as-of", "2024-07-02"],
        &["report"],
        &["show", "profile", "--head", "2"],
        &["segments", "export", "New", "--out", "new.csv"],
        &["gc", "--keep", "1", "--grace", "0d"],
        &["score", "--as-of", "2024-07-03"],
        &["explain", "c360_0000001"],
    ] {
        let [disk, bucket] = [&on_disk, &remote].map(|project| bucket.call(project, arguments));
        assert_eq!((disk.1, bucket.1), (0, 0), "{arguments:?}: {} and {}", disk.0, bucket.0);
    }
    bucket.copy("ml/store/", &copy.join("store"));
    let (of_disk, of_bucket) = (data_files(&on_disk), data_files(&copy));
    assert!(of_disk.len() > 10);
    assert!(of_disk == of_bucket, "{of_disk:?} and {of_bucket:?}");
    let views = std::fs::read_to_string(copy.join("store/current.sql")).unwrap();
    let profile = format!("'{scheme}://data/ml/store/profile/as_of=2024-07-03/");
    assert!(views.contains(&profile), "{views}");
    assert!(!remote.join("store").exists() && !remote.join(format!("{scheme}:")).exists());
    let (history, code) = bucket.call(&remote, &["history"]);
    assert!(code == 0 && history.contains("score"), "{history}");
}

/// The objects of a store without the marks of runs in their names, with their lengths where no clock is in them.
fn shapes(bucket: &BucketServer) -> Vec<(String, usize)> {
    let clocked =
        |key: &str| ["roots/", "runs/", "latest.json"].iter().any(|own| key.contains(own));
    let shape = |(key, length): (String, usize)| {
        let length = if clocked(&key) { 0 } else { length };
        let is_mark = |part: &&str| part.len() == 8 && part.chars().all(|c| c.is_ascii_hexdigit());
        let parts: Vec<&str> = key.split(['-', '.', '/']).filter(|part| !is_mark(part)).collect();
        let numbered = |part: &&&str| part.len() < 6 || part.chars().any(|c| !c.is_ascii_digit());
        (parts.iter().filter(numbered).copied().collect::<Vec<_>>().join(" "), length)
    };
    let mut shapes: Vec<_> = bucket.keys("ml/store/").into_iter().map(shape).collect();
    shapes.sort();
    shapes
}

/// An object that is not as it was written is named, and nothing is shown of it.
#[test]
fn a_flipped_bit_of_an_object_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let remote = remote_store(folder.path(), "s3");
    assert_eq!(bucket.call(&remote, &["features", "build"]).1, 0);
    let show = ["show", "features/commerce", "--as-of", "2024-07-01", "--head", "1"];
    assert_eq!(bucket.call(&remote, &show).1, 0);
    let mut objects = bucket.objects();
    let is_table = |key: &String| key.contains("/features/commerce/") && key.ends_with(".parquet");
    let key = objects.keys().find(|key| is_table(key)).unwrap().clone();
    let bytes = objects.get_mut(&key).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    bucket.restore(&objects);
    let (told, code) = bucket.call(&remote, &show);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains(&key) && told.contains("is damaged"), "{told}");
    assert!(told.contains("c360-ml features build --as-of 2024-07-01"), "{told}");
}

#[test]
fn a_run_on_s3_that_is_killed_at_any_request_leaves_the_store_whole() {
    is_whole_after_a_kill_at_any_request("s3");
}

#[test]
fn a_run_on_google_cloud_that_is_killed_at_any_request_leaves_the_store_whole() {
    is_whole_after_a_kill_at_any_request("gs");
}

/// A run that is killed at any request leaves a store that can be read, the next run is right, and `gc` removes what
/// the killed one left. `C360_TEST_EVERY=1` kills at every request, and otherwise some are tried.
fn is_whole_after_a_kill_at_any_request(scheme: &str) {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let remote = remote_store(folder.path(), scheme);
    let ok = |arguments: &[&str]| {
        let (told, code) = bucket.call(&remote, arguments);
        assert_eq!(code, 0, "{arguments:?}: {told}");
        told
    };
    let tables = || {
        let copy = tempfile::tempdir().unwrap();
        bucket.copy("ml/store/", &copy.path().join("store"));
        data_files(copy.path())
    };
    let (night, clean) =
        (["features", "build", "--as-of", "2024-07-02"], ["gc", "--keep", "1", "--grace", "0d"]);
    ok(&["features", "build"]);
    let before = bucket.objects();
    bucket.requests();
    ok(&night);
    let requests = bucket.requests();
    let expected = tables();
    ok(&clean);
    let clean_shapes = shapes(&bucket);
    let every = std::env::var("C360_TEST_EVERY").is_ok();
    let step = if every { 1 } else { requests / 8 };
    let mut killed = 0;
    for (request, moment) in (1..=requests)
        .step_by(step)
        .flat_map(|request| [Moment::Before, Moment::After].map(|moment| (request, moment)))
    {
        bucket.restore(&before);
        killed += usize::from(bucket.call_killed(&remote, &night, request, moment));
        let at = format!("killed {moment:?} request {request} of {requests}");
        ok(&["history"]);
        ok(&night);
        assert!(tables() == expected, "{at}: {:?}", tables());
        ok(&clean);
        assert_eq!(shapes(&bucket), clean_shapes, "{at}");
    }
    println!("{killed} runs were killed at one of {requests} requests");
    assert!(killed >= requests / step, "{killed} of {requests}");
}

#[test]
fn of_two_runs_at_one_bucket_of_s3_exactly_one_is_live() {
    exactly_one_is_live("s3");
}

#[test]
fn of_two_runs_at_one_bucket_of_google_cloud_exactly_one_is_live() {
    exactly_one_is_live("gs");
}

/// Of two runs that are about to publish at once, one is live, and the other one says so. `C360_TEST_EVERY=1` has them
/// meet 200 times.
fn exactly_one_is_live(scheme: &str) {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let remote = remote_store(folder.path(), scheme);
    assert_eq!(bucket.call(&remote, &["features", "build"]).1, 0);
    let before = bucket.objects();
    let rounds = if std::env::var("C360_TEST_EVERY").is_ok() { 200 } else { 5 };
    let mut winners = [0, 0];
    for round in 0..rounds {
        bucket.restore(&before);
        let [first, second] = [2, 3].map(|day| format!("2024-07-0{day}"));
        let build = |as_of| ["features", "build", "--as-of", as_of];
        let ends = bucket.call_both(&remote, [&build(&first), &build(&second)]);
        let codes = ends.each_ref().map(|(_, code)| *code);
        assert!(codes == [0, 5] || codes == [5, 0], "round {round}: {ends:?}");
        let winner = usize::from(codes[0] != 0);
        winners[winner] += 1;
        let loser = &ends[1 - winner].0;
        assert!(loser.contains("has been changed meanwhile: root 2"), "{loser}");
        let roots = bucket.keys("ml/store/roots/");
        assert_eq!(roots.len(), 2, "{roots:?}");
        let copy = tempfile::tempdir().unwrap();
        bucket.copy("ml/store/", &copy.path().join("store"));
        let as_ofs: BTreeMap<String, String> = data_files(copy.path()).into_iter().collect();
        let has = |as_of: &str| as_ofs.keys().any(|folder| folder.ends_with(as_of));
        assert!(
            has([&first, &second][winner]) && !has([&first, &second][1 - winner]),
            "{as_ofs:?}"
        );
        // What the loser wrote is removed, also without `gc`.
        let left = bucket.keys("ml/store/features/");
        assert!(!left.keys().any(|key| key.contains([&*first, &second][1 - winner])), "{left:?}");
    }
    println!("won: {winners:?} of {rounds}");
}

/// A run is live exactly if its root was created, whatever the server answers. Nothing that a root names is removed.
#[test]
fn a_run_is_live_if_its_root_was_created_whatever_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let remote = remote_store(folder.path(), "s3");
    let build = |day: usize| {
        let as_of = format!("2024-07-0{day}");
        bucket.call(&remote, &["features", "build", "--as-of", &as_of])
    };
    let is_live = |day: usize| {
        let arguments = ["show", "features/commerce", "--as-of", &format!("2024-07-0{day}")];
        bucket.call(&remote, &arguments).1 == 0
    };
    assert_eq!(build(1).1, 0);
    let root = |number: u64| format!("roots/{number:020}.json");
    for (day, end, moment, code) in [
        (2, "latest.json".to_owned(), Moment::Before, 0),
        (3, root(3), Moment::After, 0),
        (4, root(4), Moment::Before, 1),
        (4, "current.sql".to_owned(), Moment::Before, 1),
    ] {
        bucket.refuse(&end, moment);
        let (told, found) = build(day);
        bucket.refuse_nothing();
        assert_eq!(found, code, "{end} {moment:?}: {told}");
        assert_eq!(is_live(day), !end.ends_with(&root(4)), "{end} {moment:?}");
    }
    let (told, code) = bucket.call(&remote, &["gc", "--keep", "1", "--grace", "0d"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!(build(5).1, 0);
    assert!((1..=5).all(is_live));
}

/// A night takes as many requests after a long history as after a short one.
#[test]
fn a_night_costs_the_same_whatever_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let remote = remote_store(folder.path(), "s3");
    let nights: Vec<usize> = (1..=6)
        .map(|day| {
            bucket.requests();
            let as_of = format!("2024-07-0{day}");
            let (told, code) = bucket.call(&remote, &["features", "build", "--as-of", &as_of]);
            assert_eq!(code, 0, "{told}");
            bucket.requests()
        })
        .collect();
    assert_eq!(nights[2], nights[5], "{nights:?}");
}

/// Row groups whose statistics say that they have nobody or nothing of interest are not read, and what is computed is
/// the same.
#[test]
fn row_groups_of_others_and_of_later_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = BucketServer::start();
    let (on_disk, remote) = both(folder.path(), &bucket);
    let rows = concat(&read(&on_disk.join(EVENTS_FILE), None).unwrap()).unwrap().unwrap();
    let sorted = |by: &str| {
        let column = rows.column_by_name(by).unwrap();
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        match column.as_string_opt::<i32>() {
            Some(texts) => order.sort_by_key(|row| texts.value(*row as usize)),
            None => {
                let times = column.as_primitive::<TimestampMicrosecondType>();
                order.sort_by_key(|row| times.value(*row as usize));
            }
        }
        let order = arrow_array::UInt32Array::from(order);
        let rows = arrow_select::take::take_record_batch(&rows, &order).unwrap();
        let file = folder.path().join("sorted.parquet");
        let mut writer = Writer::create(&file, &rows.schema()).unwrap();
        let group = rows.num_rows().div_ceil(40);
        for start in (0..rows.num_rows()).step_by(group) {
            writer.write(&rows.slice(start, group.min(rows.num_rows() - start))).unwrap();
            writer.end_row_group().unwrap();
        }
        writer.finish().unwrap();
        let bytes = std::fs::metadata(&file).unwrap().len();
        std::fs::rename(&file, on_disk.join(EVENTS_FILE)).unwrap();
        bucket.put("crm/events/part-000.parquet", &on_disk.join(EVENTS_FILE));
        bytes
    };
    let same = |arguments: &[&str]| {
        let ends = [&on_disk, &remote].map(|project| bucket.call(project, arguments));
        assert!(ends[0].1 == 0 && ends[0] == ends[1], "{ends:?}");
        ends[0].0.clone()
    };
    let by_key = sorted("customer360_id");
    for project in [&on_disk, &remote] {
        assert_eq!(bucket.call(project, &["run"]).1, 0);
    }
    bucket.read();
    let told = same(&["explain", "c360_0000005"]);
    let of_one = bucket.read()["crm/events/part-000.parquet"];
    assert!(of_one * 3 < by_key, "{of_one} of {by_key}");

    let by_time = sorted("event_ts");
    assert_eq!(same(&["explain", "c360_0000005"]), told);
    bucket.read();
    let keys: ArrayRef = Arc::new(arrow_array::StringArray::from(vec!["c360_0000005"]));
    // 2022-09-01T00:00:00Z.
    let early = TimestampMicrosecondArray::from(vec![1_661_990_400_000_000]).with_timezone("UTC");
    let entities = [("customer360_id", keys), ("event_timestamp", Arc::new(early) as ArrayRef)];
    let entities = RecordBatch::try_from_iter(entities).unwrap();
    for project in [&on_disk, &remote] {
        write(&project.join("rows.parquet"), &entities);
    }
    let join =
        ["features", "join", "--entities", "rows.parquet", "--exact", "--out", "out.parquet"];
    same(&join);
    let early = bucket.read()["crm/events/part-000.parquet"];
    assert!(early * 2 < by_time, "{early} of {by_time}");
    let joined = [&on_disk, &remote].map(|p| std::fs::read(p.join("out.parquet")).unwrap());
    assert!(joined[0] == joined[1]);
}
