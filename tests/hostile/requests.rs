//! Hostile requests, by the ten risks of the OWASP API Security list of 2023, as far as they fit. Each situation is
//! numbered.

use std::time::Duration;

use platform::client::{Client, ClientError, send, send_json};
use platform::pki::Subject;
use schemas::change::Op;
use schemas::error_code::ErrorCode;
use schemas::publish::Me;
use serde_json::json;
use support::attacker::{Attacker, drip};
use support::network::{Network, Stream, agreement, refusal, row};

use crate::sockets::attacker;

fn refused(outcome: Result<impl Sized, ClientError>) -> ErrorCode {
    refusal(outcome).unwrap()
}

/// Writes a request unchanged, over HTTP/1.1, and reads until the router ends the connection.
async fn raw(attacker: &Attacker, text: &str) -> String {
    let stream = attacker.tls("http/1.1").await.unwrap();
    drip(stream, text, std::iter::empty()).await.answer
}

/// API1: broken object level authorisation. Situations 1 to 4.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_is_anothers() {
    let network = Network::opened().await.unwrap();
    let other = network.client("9001/main").unwrap();
    let detail = async |number: &str| {
        let asked = other.get(&format!("/v1/agreements/{number}/stream")).query(&[("from", "state")]);
        match send(asked).await {
            Err(ClientError::Refused(_, problem)) => (problem.code, problem.detail.replace(number, "N")),
            other => panic!("{number}: {other:?}"),
        }
    };
    // 1: the agreement of another participant is refused in the same words as one that does not exist.
    assert_eq!(detail("A-1").await, detail("A-9").await);
    // 2: the owner's routes of a channel, one by one.
    for path in ["", "/agreements", "/state"] {
        let asked = other.get(&format!("/v1/channels/register{path}"));
        assert_eq!(refused(send(asked).await), ErrorCode::NotPermitted, "{path}");
    }
    let opening = json!({"epoch": "09".repeat(16), "replaces": null});
    let open = other.post("/v1/channels/register/partitions/0/openings").json(&opening);
    assert_eq!(refused(send(open).await), ErrorCode::NotPermitted);
    // 3: other spellings of an agreement's number lead nowhere.
    for number in
        ["A-1%2f..%2fA-1", "..%2f..%2fme", "A-1%00", "a-1", "%EF%BC%A1-1", "A-1%20", &"A".repeat(8_000)]
    {
        let outcome = send(other.get(&format!("/v1/agreements/{number}/stream?from=state"))).await;
        assert!(matches!(outcome, Err(ClientError::Refused(..))), "{number}: {outcome:?}");
    }
    // 4: partitions that do not exist.
    for partition in ["1", "-1", "4294967296", "0x0", "%30%30%00"] {
        let owner = network.client("4000/main").unwrap();
        let asked = owner.post(&format!("/v1/channels/register/partitions/{partition}/batches")).body("x");
        assert!(matches!(send(asked).await, Err(ClientError::Refused(..))), "{partition}");
    }
    let me: Me = send_json(other.get("/v1/me")).await.unwrap();
    assert_eq!((me.agreements.len(), me.channels.len()), (0, 0));
}

/// API2 and API5: broken authentication and function level authorisation. Situations 5 to 10.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_who_a_header_says() {
    let network = Network::opened().await.unwrap();
    let client = network.client("9001/main").unwrap();
    // 5: headers that proxies and frameworks take for a name.
    let mut asked = client.get("/v1/me");
    for name in [
        "x-forwarded-client-cert",
        "x-client-cert",
        "x-ssl-client-s-dn",
        "x-participant",
        "x-user",
        "forwarded",
        "x-original-url",
    ] {
        asked = asked.header(name, "URI=spiffe://test.dit/participant/4000/agent/main");
    }
    let me: Me = send_json(asked.header("authorization", "Basic YWRtaW46YWRtaW4=")).await.unwrap();
    assert_eq!(me.agent.to_string(), "9001/main");
    // 6: a method in a header has no effect.
    let asked = client.get("/v1/me").header("x-http-method-override", "DELETE");
    assert_eq!(send_json::<Me>(asked).await.unwrap().agent.to_string(), "9001/main");
    // 7: without a certificate, and without TLS.
    let nobody = attacker(&network, None);
    let alone = match nobody.tls("http/1.1").await {
        Ok(stream) => drip(stream, "GET /v1/me HTTP/1.1\r\nhost: r\r\n\r\n", std::iter::empty()).await.answer,
        Err(_) => String::new(),
    };
    assert_eq!(alone, "");
    let plain =
        drip(nobody.socket().await.unwrap(), "GET /v1/me HTTP/1.1\r\nhost: r\r\n\r\n", std::iter::empty());
    assert!(!plain.await.answer.contains("HTTP/1.1 200"));
    // 8: a router's certificate is not an agent's, and only an operator's is an operator's.
    let hosts = vec!["127.0.0.1".to_owned()];
    let router = Subject::Router { name: "r2".to_owned(), hosts };
    let of = |base: String, subject: &Subject| {
        Client::new(&base, &network.authority.identity(subject).unwrap()).unwrap()
    };
    let agents = format!("https://{}", network.router.address());
    assert_eq!(refused(send(of(agents.clone(), &router).get("/v1/me")).await), ErrorCode::NotPermitted);
    let admin = format!("https://{}", network.router.admin_address());
    let agent = Subject::Agent("4000/main".parse().unwrap());
    for subject in [&router, &agent] {
        let known = of(admin.clone(), subject);
        let status = json!({"status": "revoked", "reason": "mine"});
        for asked in [
            known.get("/v1/agreements"),
            known.get("/v1/audit"),
            known.put("/v1/agreements").json(&agreement(2, "true")),
            known.put("/v1/participants").json(&json!({"id": "1", "name": "1"})),
            known.post("/v1/agreements/A-1/status").json(&status),
            known.post("/v1/shadow?from=earliest&seconds=1").json(&agreement(2, "true")),
        ] {
            assert_eq!(refused(send(asked).await), ErrorCode::NotPermitted, "{subject:?}");
        }
    }
    // 9: the agents' listener does not have the operators' routes.
    let operator = of(agents, &Subject::Operator("o".to_owned()));
    for asked in [
        operator.put("/v1/agreements"),
        operator.get("/v1/audit"),
        operator.post("/v1/agreements/A-1/status"),
    ] {
        assert_eq!(refused(send(asked.json(&json!({}))).await), ErrorCode::RouteUnknown);
    }
    // 10: methods that no route has.
    let known = attacker(&network, Some("9000/main"));
    for method in ["DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "PROPFIND", "get"] {
        let answer =
            raw(&known, &format!("{method} /v1/me HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n")).await;
        assert!(!answer.contains(" 200 ") && !answer.contains("9000/main"), "{method}: {answer}");
    }
}

/// API3: broken object property level authorisation. Situations 11 to 14.
#[tokio::test(flavor = "multi_thread")]
async fn no_member_comes_in_and_no_field_goes_out_unnamed() {
    let mut network = Network::opened().await.unwrap();
    let operator = network.operator.clone();
    // 11: members other than the expected ones.
    let by = json!({"status": "suspended", "reason": "x", "by": "anna"});
    assert_eq!(
        refused(send(operator.post("/v1/agreements/A-1/status").json(&by)).await),
        ErrorCode::RequestMalformed
    );
    let participant = json!({"id": "9009", "name": "x", "operator": true});
    assert_eq!(
        refused(send(operator.put("/v1/participants").json(&participant)).await),
        ErrorCode::RequestMalformed
    );
    let owner = network.client("4000/main").unwrap();
    let opening = json!({"epoch": "09".repeat(16), "replaces": null, "agent": "9001/main"});
    let open = owner.post("/v1/channels/register/partitions/0/openings").json(&opening);
    assert_eq!(refused(send(open).await), ErrorCode::RequestMalformed);
    // 12: a member twice, and a parameter twice: neither the first nor the last counts.
    let twice = r#"{"status":"active","reason":"x","status":"revoked"}"#;
    let asked =
        operator.post("/v1/agreements/A-1/status").header("content-type", "application/json").body(twice);
    assert_eq!(refused(send(asked).await), ErrorCode::RequestMalformed);
    let consumer = network.client("9000/main").unwrap();
    for query in [
        "from=state&from=earliest",
        "from=state&reconcile=1",
        "from=state&history=full",
        "from=state&agreement=A-2",
    ] {
        let outcome = send(consumer.get(&format!("/v1/agreements/A-1/stream?{query}"))).await;
        assert_eq!(refused(outcome), ErrorCode::RequestMalformed, "{query}");
    }
    // 13: a field that no agreement names leaves in no form, nor does its name.
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
    network.materialised().await.unwrap();
    let mut stream = network.stream("9000/main", "state").await.unwrap();
    stream.until(|word| word == "end").await.unwrap();
    let bytes = String::from_utf8_lossy(&stream.bytes).to_lowercase();
    assert!(stream.rows().len() == 1 && !bytes.contains("secret"), "{bytes}");
    // 14: nor can a request ask for it.
    let path = [("from", "state"), ("fields", "secret")];
    assert!(Stream::asking(&consumer, "A-1", &path).await.is_err());
}

/// API4: unrestricted consumption of resources. Situations 15 to 20; `sockets` has more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_deep_or_packed_is_refused_at_once() {
    let mut network = Network::opened().await.unwrap();
    let known = attacker(&network, Some("9000/main"));
    // 15: headers without an end.
    let header = format!("GET /v1/me HTTP/1.1\r\nhost: r\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!raw(&known, &header).await.contains(" 200 "));
    let many: String = (0..2_000).map(|n| format!("x{n}: y\r\n")).collect();
    assert!(!raw(&known, &format!("GET /v1/me HTTP/1.1\r\nhost: r\r\n{many}\r\n")).await.contains(" 200 "));
    // 16: a path without an end.
    let long = format!("GET /v1/{} HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n", "x".repeat(200_000));
    assert!(!raw(&known, &long).await.contains(" 200 "));
    // 17: JSON of a hundred thousand levels, as a body and as a row predicate.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let asked = network.operator.put("/v1/agreements").header("content-type", "application/json").body(deep);
    assert_eq!(refused(send(asked).await), ErrorCode::RequestMalformed);
    let nots = agreement(2, &format!("{}true", "!".repeat(100_000)));
    assert_eq!(
        refused(send(network.operator.put("/v1/agreements").json(&nots)).await),
        ErrorCode::RequestMalformed
    );
    // 18: a body that would be larger unpacked: nothing here unpacks bodies.
    let good = network.batch(Op::Create, "a", None, Some(&row("a", "R"))).unwrap();
    let owner = network.client("4000/main").unwrap();
    let path = "/v1/channels/register/partitions/0/batches";
    let packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(
        refused(send(owner.post(path).header("content-encoding", "gzip").body(packed)).await),
        ErrorCode::BatchMalformed
    );
    // 19: a container whose codec compresses, or whose block claims to be larger than it is.
    let schema = apache_avro::Schema::parse_str("\"string\"").unwrap();
    let deflate = apache_avro::Codec::Deflate(apache_avro::DeflateSettings::default());
    let mut packed = apache_avro::Writer::with_codec(&schema, Vec::new(), deflate).unwrap();
    packed.append_value("x".repeat(50_000_000)).unwrap();
    let packed = packed.into_inner().unwrap();
    assert!(packed.len() < 100_000);
    assert_eq!(refused(network.post("4000/main", packed).await), ErrorCode::BatchMalformed);
    let at = good.len() - 16;
    for (what, bytes) in [
        (
            "a block of 2^62 records",
            [&good[..at], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 2, 0]].concat(),
        ),
        ("a block of 2^40 bytes", [&good[..at], &[2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]].concat()),
        ("a block of less than nothing", [&good[..at], &[1, 1]].concat()),
    ] {
        assert_eq!(refused(network.post("4000/main", bytes).await), ErrorCode::BatchMalformed, "{what}");
    }
    // 20: a good batch still counts.
    network.publish(Op::Create, "a", None, Some(&row("a", "R"))).await.unwrap();
}

/// API7 and API8: forgery of the server's own requests, and misconfiguration. Situations 21 to 25.
#[tokio::test(flavor = "multi_thread")]
async fn the_router_asks_nobody_and_says_no_more_than_it_must() {
    let network = Network::opened().await.unwrap();
    let consumer = network.client("9000/main").unwrap();
    let owner = network.client("4000/main").unwrap();
    // 21: a schema is the request's own text: no address in it is looked up, and only its channel's owner registers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/schema", listener.local_addr().unwrap());
    let path = "/registry/subjects/dit.register.log-value/versions";
    let schema = json!({"type": "record", "name": "x", "fields": [{"name": "a", "type": url}]});
    let body =
        json!({"schema": schema.to_string(), "references": [{"name": url, "subject": url, "version": 1}]});
    for client in [&consumer, &owner] {
        assert!(send(client.post(path).json(&body)).await.is_err());
    }
    let asked = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(asked.is_err(), "the router asked {url}");
    // 22: answers invite no browser, set nothing, and do not name the software.
    let known = attacker(&network, Some("9000/main"));
    for asked in [
        "GET /v1/me",
        "GET /nothing",
        "OPTIONS /v1/me",
        "POST /v1/me",
        "GET /v1/agreements/A-2/stream?from=state",
    ] {
        let request = format!(
            "{asked} HTTP/1.1\r\nhost: r\r\norigin: https://evil.example\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = raw(&known, &request).await.to_lowercase();
        for header in ["server:", "x-powered-by:", "access-control-", "set-cookie:"] {
            assert!(!answer.contains(&format!("\r\n{header}")), "{asked}: {answer}");
        }
        for word in ["src/", ".rs", "panicked", "backtrace", "rustc"] {
            assert!(!answer.contains(word), "{asked}: {answer}");
        }
    }
    // 23: two lengths, or a length and chunks: a proxy before us might read another request.
    for lengths in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "content-length: 4\r\ncontent-length: 60",
        "transfer-encoding: chunked, identity",
        "content-length: +4",
    ] {
        let smuggled = format!(
            "POST /v1/me HTTP/1.1\r\nhost: r\r\n{lengths}\r\n\r\n0\r\n\r\nGET /v1/me HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(&known, &smuggled).await;
        assert!(!answer.contains(" 200 "), "{lengths}: {answer}");
    }
    // 24: an upgrade of the protocol.
    let upgrade = "GET /v1/me HTTP/1.1\r\nhost: r\r\nconnection: upgrade, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert!(!raw(&known, upgrade).await.contains(" 101 "));
    // 25: an address of another host, as a forward proxy would take it.
    let absolute = "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nhost: 169.254.169.254\r\nconnection: close\r\n\r\n";
    assert!(raw(&known, absolute).await.contains(" 404 "));
}

/// API9: inventory. Situations 26 and 27.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_there_that_is_not_documented() {
    let network = Network::opened().await.unwrap();
    let client = network.client("9000/main").unwrap();
    // 26: routes that other software leaves open.
    let left = [
        "/metrics",
        "/debug/pprof",
        "/actuator/env",
        "/.env",
        "/.git/config",
        "/swagger.json",
        "/v1",
        "/v0/me",
        "/v2/me",
        "/V1/me",
        "/v1/me/",
        "//v1/me",
        "/v1/me;x",
    ];
    for path in left {
        assert_eq!(refused(send(client.get(path)).await), ErrorCode::RouteUnknown, "{path}");
        assert_eq!(refused(send(network.operator.get(path)).await), ErrorCode::RouteUnknown, "{path}");
    }
    // 27: unknown routes are refused in our words, with every method.
    for path in ["/", "/v1/nothing", "/v1/../me", "/registry"] {
        assert_eq!(refused(send(client.get(path)).await), ErrorCode::RouteUnknown, "{path}");
    }
    assert_eq!(refused(send(client.post("/v1/me")).await), ErrorCode::RouteUnknown);
}
