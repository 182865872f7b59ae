//! What a site adds to a replica table: views on columns that are removed or change, triggers on rows.

use consumer_agent::sink::effect::Effect;
use consumer_agent::sink::postgres::PostgresSink;
use consumer_agent::sink::{Batch, Sink};
use parts::postgres::Postgres;
use schemas::avro::binary::put_string;
use tokio_postgres::Client;

use crate::{NAME, SIZE, batch, begun, database, row, rows, schema, upsert};

const TEXT_SIZE: &str = r#"{"name":"size","type":"string"}"#;

async fn give_snapshot(sink: &mut PostgresSink, image: Vec<u8>, offset: u64) {
    sink.apply(&batch(vec![Effect::BeginSnapshot, upsert("1", image), Effect::EndSnapshot], offset))
        .await
        .unwrap();
}

async fn seen(admin: &Client) -> Vec<String> {
    let select = "SELECT to_jsonb(v)::text FROM public.mine v";
    admin.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn one(name: &str) -> Vec<u8> {
    let mut image = Vec::new();
    put_string(&mut image, name);
    image
}

#[tokio::test]
async fn views_stand_when_a_column_goes_or_becomes_another() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let full = schema(&format!("{NAME},{SIZE}"));
    let mut sink = begun(&place, &full).await;
    give_snapshot(&mut sink, row("a", Some(7)), 5).await;
    let view = "CREATE VIEW public.mine AS SELECT name, size AS how_large FROM dit.register";
    admin.batch_execute(view).await.unwrap();

    // The field is no longer given: its values are removed, and the view stays.
    sink.begin(&schema(NAME)).await.unwrap();
    give_snapshot(&mut sink, one("a"), 6).await;
    assert_eq!(seen(&admin).await, [r#"{"name": "a", "how_large": null}"#]);
    assert_eq!(rows(&admin).await, [r#"{"name": "a", "size": null, "dit_key": "1"}"#]);
    // This is no alteration by a person, and other rows come.
    let mut sink = begun(&place, &schema(NAME)).await;
    sink.apply(&batch(vec![upsert("1", one("b"))], 7)).await.unwrap();
    assert_eq!(seen(&admin).await, [r#"{"name": "b", "how_large": null}"#]);

    // The field is given again.
    sink.begin(&full).await.unwrap();
    give_snapshot(&mut sink, row("b", Some(8)), 8).await;
    assert_eq!(seen(&admin).await, [r#"{"name": "b", "how_large": 8}"#]);

    // The field gets another type: the view keeps its old column, which is empty.
    let text = schema(&format!("{NAME},{TEXT_SIZE}"));
    sink.begin(&text).await.unwrap();
    let mut image = one("b");
    put_string(&mut image, "large");
    give_snapshot(&mut sink, image.clone(), 9).await;
    assert_eq!(seen(&admin).await, [r#"{"name": "b", "how_large": null}"#]);
    let both = r#"{"name": "b", "size": "large", "dit_key": "1", "dit_aside_1": null}"#;
    assert_eq!(rows(&admin).await, [both]);

    // Once no view needs the old column, the next snapshot removes it.
    admin.batch_execute("DROP VIEW public.mine").await.unwrap();
    let mut sink = begun(&place, &text).await;
    give_snapshot(&mut sink, image, 10).await;
    assert_eq!(rows(&admin).await, [r#"{"name": "b", "size": "large", "dit_key": "1"}"#]);
}

#[tokio::test]
async fn triggers_hear_of_rows_that_change_and_of_no_others() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let head = schema(&format!("{NAME},{SIZE}"));
    let mut sink = begun(&place, &head).await;
    let rows_of = |third: Vec<u8>| {
        let rows = [("1", row("a", Some(7))), ("2", row("b", None)), ("3", third)];
        rows.map(|(key, image)| upsert(key, image))
    };
    let snapshot = |third: Vec<u8>| {
        [vec![Effect::BeginSnapshot], rows_of(third).into(), vec![Effect::EndSnapshot]].concat()
    };
    sink.apply(&batch(snapshot(row("c", Some(9))), 5)).await.unwrap();
    admin
        .batch_execute(
            "CREATE TABLE public.heard (what text);
             CREATE FUNCTION public.hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
               BEGIN INSERT INTO public.heard VALUES (TG_OP || ' ' || coalesce(NEW.dit_key, OLD.dit_key)); RETURN coalesce(NEW, OLD); END $$;
             CREATE TRIGGER hear BEFORE INSERT OR UPDATE OR DELETE ON dit.register FOR EACH ROW EXECUTE FUNCTION public.hear();",
        )
        .await
        .unwrap();
    let heard = async || {
        let taken = admin.query("DELETE FROM public.heard RETURNING what", &[]).await.unwrap();
        let mut words: Vec<String> = taken.iter().map(|row| row.get(0)).collect();
        words.sort();
        words
    };
    // The same rows again, by a snapshot and by live changes: no trigger fires, and no row is lost.
    sink.apply(&batch(snapshot(row("c", Some(9))), 6)).await.unwrap();
    sink.apply(&batch(rows_of(row("c", Some(9))).into(), 7)).await.unwrap();
    assert_eq!((heard().await, sink.row_count()), (vec![], 3));
    let notes =
        async || -> i64 { admin.query_one("SELECT count(*) FROM dit.dit_kept", &[]).await.unwrap().get(0) };
    assert_eq!(notes().await, 0, "outside a snapshot nothing is noted");
    let before = rows(&admin).await;
    // One row changes in a snapshot that is continued after its agent ended.
    let begun_pass = [vec![Effect::BeginSnapshot], rows_of(row("c", None)).into()].concat();
    sink.apply(&Batch { effects: begun_pass, cursor: None, freshness: None }).await.unwrap();
    let format =
        async || -> i32 { admin.query_one("SELECT format FROM dit.dit_replica", &[]).await.unwrap().get(0) };
    assert_eq!(format().await, 2, "an older binary must not end this snapshot");
    let mut sink = begun(&place, &head).await;
    sink.apply(&batch(vec![Effect::EndSnapshot], 8)).await.unwrap();
    assert_eq!(format().await, 1);
    assert_eq!(heard().await, ["INSERT 3", "UPDATE 3"], "an upsert tries to insert first");
    assert_eq!((rows(&admin).await.len(), rows(&admin).await[..2].to_vec()), (3, before[..2].to_vec()));
    // A snapshot removes rows that it does not bring, even if an earlier one had found them as they were.
    let two = vec![
        Effect::BeginSnapshot,
        upsert("1", row("a", Some(7))),
        upsert("3", row("c", None)),
        Effect::EndSnapshot,
    ];
    sink.apply(&batch(two, 9)).await.unwrap();
    assert_eq!(heard().await, ["DELETE 2"]);
    let kept = admin.query_one("SELECT count(*) FROM dit.dit_kept", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i64>(0), 0);
}

/// Columns may have names that the agent's own statements use.
#[tokio::test]
async fn columns_may_be_called_like_what_the_statements_call_theirs() {
    let (admin, place) = database(&Postgres::shared().unwrap()).await;
    let names = ["k", "v0", "v1", "r", "t", "key", "agreement", "given", "same", "rows", "is_new"];
    let fields: Vec<String> =
        names.iter().map(|name| format!(r#"{{"name":"{name}","type":"string"}}"#)).collect();
    let head = schema(&fields.join(","));
    let image = || {
        let mut image = Vec::new();
        names.iter().for_each(|name| put_string(&mut image, name));
        image
    };
    let mut sink = begun(&place, &head).await;
    for offset in 5..7 {
        give_snapshot(&mut sink, image(), offset).await;
        let counted = admin.query_one("SELECT count(*) FROM dit.register", &[]).await.unwrap();
        assert_eq!((counted.get::<_, i64>(0), sink.row_count()), (1, 1));
    }
    sink.apply(&batch(vec![Effect::Remove { key: "1".to_owned() }], 8)).await.unwrap();
    assert_eq!(sink.row_count(), 0);
}
