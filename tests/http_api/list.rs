//! Lists and their cursors.

use quorate::types::Mode;
use serde_json::{Value, json};

use crate::world::{World, in_a_world};

async fn page(world: &World, query: &str) -> Value {
    let answer = world.get(&format!("/v1/kv?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("quorate-consistency"), Some("linearizable"));
    answer.json()
}

fn keys(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["key"].as_str().expect("a key")).collect()
}

#[test]
fn a_list_shows_keys_in_order_without_deleted_ones() {
    in_a_world(Mode::Leader, |world| async move {
        let empty = json!({"items": [], "prefixes": [], "next_cursor": null});
        assert_eq!(page(&world, "").await, empty);
        for key in ["b", "a", "c", "img/cat", "img/dog", "img/old/x"] {
            world.store(key, key.to_owned()).await;
        }
        world.ask("DELETE", "/v1/kv/b", &[]).await;
        let all = page(&world, "").await;
        assert_eq!(keys(&all), ["a", "c", "img/cat", "img/dog", "img/old/x"]);
        let etag = world.get("/v1/kv/a").await.header("etag").expect("a tag").to_owned();
        let a = json!({"key": "a", "etag": etag, "size": 1, "content_type": null});
        assert_eq!(all["items"][0], a);
        let folded = page(&world, "delimiter=/").await;
        assert_eq!((keys(&folded), &folded["prefixes"]), (vec!["a", "c"], &json!(["img/"])));
        let below = page(&world, "prefix=img%2F&delimiter=%2F").await;
        assert_eq!(keys(&below), ["img/cat", "img/dog"]);
        assert_eq!(below["prefixes"], json!(["img/old/"]));
    });
}

#[test]
fn values_are_text_where_they_can_be() {
    in_a_world(Mode::Leader, |world| async move {
        world.store("bytes", vec![0xff, 0x00]).await;
        world.store("text", "grün").await;
        let page = page(&world, "values=true").await;
        assert_eq!(page["items"][0]["value_base64"], "/wA=");
        assert_eq!(page["items"][0].get("value"), None);
        assert_eq!(page["items"][1]["value"], "grün");
        assert_eq!(page["items"][1]["size"], 5);
        assert_eq!(page["items"][1].get("value_base64"), None);
    });
}

#[test]
fn pages_chained_by_their_cursors_give_every_key_once() {
    in_a_world(Mode::Leader, |world| async move {
        for n in 0..25 {
            world.store(&format!("k{n:02}/x"), "1").await;
            world.store(&format!("k{n:02}/y"), "1").await;
        }
        for (query, expected) in [("limit=7", 50), ("limit=7&delimiter=/", 25)] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = page(&world, &format!("{query}{cursor}")).await;
                let prefixes = page["prefixes"].as_array().expect("prefixes");
                let prefixes = prefixes.iter().map(|prefix| prefix.as_str().expect("a text"));
                let found: Vec<&str> = keys(&page).into_iter().chain(prefixes).collect();
                assert!(found.len() <= 7);
                seen.extend(found.into_iter().map(str::to_owned));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            let mut distinct = seen.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!((seen.len(), &distinct), (expected, &seen), "{query}");
        }
    });
}

#[test]
fn list_parameters_that_make_no_sense_are_refused_by_name() {
    in_a_world(Mode::Leader, |world| async move {
        let long = format!("prefix={}", "x".repeat(4_097));
        for (query, named) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=1", "limit"),
            ("cursor=!!!", "cursor"),
            ("cursor=AAAA", "cursor"),
            ("cursor=", "cursor"),
            ("values=yes", "values"),
            ("delimiter=", "delimiter"),
            ("after=a", "after"),
            ("prefix=a&prefix=b", "prefix"),
            ("consistency=x", "consistency"),
            (long.as_str(), "prefix"),
        ] {
            let answer = world.get(&format!("/v1/kv?{query}")).await;
            assert_eq!(answer.problem().0, 400, "{query}");
            assert_eq!(answer.json()["parameter"], named, "{query}");
        }
        assert_eq!(world.fake.requests(), 0);
        assert_eq!(world.get("/v1/kv?limit=1000").await.status, 200);
        let deleted = world.ask("DELETE", "/v1/kv", &[]).await;
        assert_eq!(deleted.problem(), (405, "method-not-allowed".to_owned()));
        assert_eq!(deleted.header("allow"), Some("GET, HEAD"));
    });
}
