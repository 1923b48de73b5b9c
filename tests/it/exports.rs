//! Tests of the exports of the offline store. `tests/outside` reads them with the other programs.

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float64Type, TimestampMicrosecondType};
use arrow_schema::{DataType, TimeUnit};
use c360_ml::store::parquet::read_all;

use crate::cli::output;
use crate::support::{edit, live, project, root};

#[test]
fn snapshots_are_a_feast_repository_of_plain_types() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let out = folder.path().join("feast");
    let export = ["export", "feast", "--out", out.to_str().unwrap(), "--ttl", "support=7d"];
    let day = "name = \"first_day\"\nop = \"min\"\ninput = \"cast(event_ts as date)\"";
    edit(
        &project,
        "features/support.toml",
        "[[feature]]",
        &format!("[[feature]]\n{day}\n\n[[feature]]"),
    );
    let (_, stderr, code) = output(&project, &export);
    assert_eq!(code, 4, "{stderr}");
    assert!(!out.exists(), "nothing is written where there is nothing");
    for as_of in ["2024-05-01", "2024-06-30"] {
        let (_, stderr, code) = output(&project, &["features", "build", "--as-of", as_of]);
        assert_eq!(code, 0, "{stderr}");
    }
    let (_, stderr, code) = output(&project, &export);
    assert_eq!(code, 0, "{stderr}");
    let file = out.join("data/commerce.parquet");
    let rows = read_all([file.as_path()], None).unwrap().unwrap();
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    for field in rows.schema().fields() {
        let plain = [
            DataType::Int64,
            DataType::Float64,
            DataType::Boolean,
            DataType::Utf8,
            instant.clone(),
        ];
        assert!(plain.contains(field.data_type()), "{field}");
    }
    // The file has both snapshots one after the other, with money as doubles in major units.
    let spend = rows.column_by_name("spend_90d").unwrap().as_primitive::<Float64Type>().clone();
    let mut from = 0;
    for as_of in ["2024-05-01", "2024-06-30"] {
        let root = root(&project);
        let folder = format!("features/commerce/as_of={as_of}/");
        let own = root["files"].as_object().unwrap().keys().find(|name| name.starts_with(&folder));
        let own = live(&project, own.unwrap());
        let own = read_all([own.as_path()], None).unwrap().unwrap();
        let own = own.column_by_name("spend_90d").unwrap().as_primitive::<Decimal128Type>().clone();
        for (row, minor) in own.iter().enumerate() {
            let is_null = arrow_array::Array::is_null(&spend, from + row);
            assert_eq!(minor.is_none(), is_null);
            assert!(is_null || spend.value(from + row) == minor.unwrap() as f64 / 100.0);
        }
        from += arrow_array::Array::len(&own);
    }
    assert_eq!(from, rows.num_rows());
    let days = out.join("data/support.parquet");
    let days = read_all([days.as_path()], Some(&["first_day"])).unwrap().unwrap();
    assert_eq!(*days.column(0).data_type(), instant, "a date is its midnight");
    let days = days.column(0).as_primitive::<TimestampMicrosecondType>();
    assert!(days.iter().flatten().count() > 1000);
    assert!(days.iter().flatten().all(|at| at % c360_ml::time::DAY == 0));
    let never = ["export", "feast", "--out", out.to_str().unwrap(), "--ttl", "support=0d"];
    assert_eq!(output(&project, &never).2, 2, "Feast treats a TTL of zero as unlimited");
    let definitions = std::fs::read_to_string(out.join("definitions.py")).unwrap();
    let of_view = |view: &str| {
        let from = definitions.find(&format!("{view}_source = ")).unwrap();
        definitions[from..].split("\n)\n").take(2).collect::<Vec<_>>().join("\n)\n")
    };
    insta::assert_snapshot!("a feature view", of_view("support"));
    let settings = out.join("feature_store.yaml");
    insta::assert_snapshot!("feature_store.yaml", std::fs::read_to_string(&settings).unwrap());
    std::fs::write(&settings, "mine").unwrap();
    assert_eq!(output(&project, &export).2, 0);
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), "mine");
}

/// The checks that need no server. `tests/outside` runs the others with servers.
#[test]
fn a_push_says_what_is_missing_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    // No server listens on this port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = format!("redis://:planted@127.0.0.1:{port}");
    let postgres = format!("postgres://ann:planted@127.0.0.1:{port}/shop");
    let (_, stderr, code) = output(&project, &["export", "redis", "--url", &redis]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("the store has no profile yet"), "{stderr}");
    assert_eq!(output(&project, &["run"]).2, 0);
    for (kind, url) in [("redis", &redis), ("postgres", &postgres)] {
        let (_, stderr, code) = output(&project, &["export", kind, "--url", url]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("is the server up") && !stderr.contains("planted"), "{stderr}");
        let (_, stderr, code) =
            output(&project, &["export", kind, "--url", url, "--views", "comerce"]);
        assert_eq!(code, 2);
        assert!(stderr.contains("did you mean `commerce`"), "{stderr}");
        for odd in ["ftp://:planted@x", "//ann:planted@x/shop?sslmode=require"] {
            let odd = format!("{}{odd}", if odd.starts_with('/') { kind } else { "" });
            let (_, stderr, code) = output(&project, &["export", kind, "--url", &odd]);
            assert_eq!(code, 2, "{stderr}");
            assert!(!stderr.contains("planted"), "{stderr}");
        }
    }
    let odd = "postgres://ann:pl@nted@127.0.0.1/shop";
    let (_, stderr, code) = output(&project, &["export", "postgres", "--url", odd]);
    assert_eq!(code, 2, "{stderr}");
    assert!(!stderr.contains("nted") && stderr.contains("%40"), "{stderr}");
    let (_, stderr, code) = output(&project, &["export", "redis", "--url", &redis, "--prefix", ""]);
    assert_eq!(code, 2, "{stderr}");
    // The features belong to another run than the one that wrote the profile.
    assert_eq!(output(&project, &["features", "build", "--full"]).2, 0);
    let (_, stderr, code) = output(&project, &["export", "redis", "--url", &redis]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("was built anew since"), "{stderr}");
}
