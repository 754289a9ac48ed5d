//! The API's form: paths, errors, events and the OpenAPI document.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests use real time and may panic"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use handheld::api::{Code, Event, MAX_REQUEST_BYTES, Problem, State};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

mod api_support;
use api_support::{Client, Daemon, PATIENCE, World};

struct Events {
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = Vec<u8>> + Send>>,
    text: String,
}

impl Events {
    async fn listen(client: &Client) -> Self {
        let answer = client.http.get(client.url("/events")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let bytes = answer.bytes_stream().map(|chunk| chunk.unwrap_or_default().to_vec());
        Self { bytes: Box::pin(bytes), text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(str::to_owned);
                self.text = rest.to_owned();
                // A comment keeps the connection alive.
                let Some(data) = data else { continue };
                return Some(serde_json::from_str(&data).unwrap());
            }
            let more = tokio::time::timeout(PATIENCE, self.bytes.next()).await.expect("no event")?;
            self.text.push_str(&String::from_utf8(more).unwrap());
        }
    }

    async fn instance(&mut self) -> handheld::api::Instance {
        match self.next().await {
            Some(Event::Instance(instance)) => instance,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn events_tell_the_present_then_each_change_then_goodbye() {
    let world = World::new();
    let daemon = world.daemon();
    let client = &daemon.client;
    let early = client.ready("solo", "early", "private").await;
    let mut events = Events::listen(client).await;
    assert_eq!(events.instance().await, early);

    let (instance, _) = client.start("echo", "phone", "private").await;
    let starting = events.instance().await;
    assert_eq!((starting.id, starting.state, starting.address), (instance.id, State::Starting, None));
    let ready = events.instance().await;
    assert_eq!((ready.id, ready.state), (instance.id, State::Ready));
    assert!(ready.address.is_some() && ready.ready_after_ms.is_some());
    client.delete(instance.id, "client_token=phone").await;
    assert_eq!(events.instance().await.state, State::Stopping);
    assert_eq!(events.instance().await.state, State::Stopped);

    daemon.ask_to_stop();
    while let Some(event) = events.next().await {
        if event == Event::Goodbye {
            assert_eq!(events.next().await, None);
            daemon.stop().unwrap();
            return;
        }
    }
    panic!("no goodbye");
}

#[tokio::test]
async fn the_cloudlet_and_its_services_describe_themselves() {
    let world = World::new();
    let daemon = world.daemon();
    let (status, cloudlet) = daemon.client.get("/cloudlet").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&cloudlet["api_version"], &cloudlet["name"]), (&json!(1), &json!("test")));
    assert_eq!((&cloudlet["accelerator"], &cloudlet["services"]), (&json!("tcg"), &json!(["echo", "solo"])));
    assert_eq!(cloudlet["load"]["memory_free_bytes"], json!(1000u64 << 20));
    assert_eq!(cloudlet["node_id"].as_str().unwrap().len(), 32);

    daemon.client.ready("echo", "a", "shared").await;
    let (_, echo) = daemon.client.get("/services/echo").await;
    assert_eq!((&echo["ready_instances"], &echo["max_users"]), (&json!(1), &json!(3)));
    let (_, services) = daemon.client.get("/services").await;
    assert_eq!(services[0], echo);
    assert_eq!(services[1]["id"], "solo");
    let (_, cloudlet) = daemon.client.get("/cloudlet").await;
    assert_eq!(cloudlet["load"]["instances"], json!(1));
    assert_eq!(cloudlet["load"]["memory_free_bytes"], json!(900u64 << 20));
}

#[tokio::test]
async fn a_created_instance_is_where_its_location_says() {
    let world = World::new();
    let daemon = world.daemon();
    let body = json!({"service": "echo", "client_token": "a"});
    let answer = daemon.client.http.post(daemon.client.url("/instances")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let instance: handheld::api::Instance = answer.json().await.unwrap();
    let path = location.strip_prefix("/api/v1").unwrap();
    assert_eq!(daemon.client.get(path).await.1["id"], json!(instance.id));
    assert_eq!(daemon.client.get(&format!("{path}?client_token=a")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn every_mistake_is_answered_with_a_problem() {
    let world = World::new();
    let daemon = world.daemon();
    let instance = daemon.client.ready("echo", "a", "private").await;
    let known = format!("/instances/{}", instance.id);
    let unknown = format!("/instances/{}", Uuid::new_v4());
    let start = |body: &str| Some(body.to_owned());
    let long = format!(r#"{{"service":"echo","client_token":"{}"}}"#, "x".repeat(MAX_REQUEST_BYTES));
    let long_token = format!(r#"{{"service":"echo","client_token":"{}"}}"#, "x".repeat(129));
    let cases: &[(Method, &str, Option<String>, u16, Code)] = &[
        (Method::GET, "/nothing", None, 404, Code::UnknownPath),
        (Method::GET, "/services/nope", None, 404, Code::UnknownService),
        (Method::GET, "/services/NOT%20AN%20ID", None, 404, Code::UnknownService),
        (Method::GET, &unknown, None, 404, Code::UnknownInstance),
        (Method::GET, "/instances/not-an-id", None, 404, Code::UnknownInstance),
        (Method::DELETE, &format!("{unknown}?force=true"), None, 404, Code::UnknownInstance),
        (Method::DELETE, &known, None, 400, Code::BadRequest),
        (Method::DELETE, &format!("{known}?client_token="), None, 400, Code::BadRequest),
        (Method::DELETE, &format!("{known}?force=perhaps"), None, 400, Code::BadRequest),
        (Method::PUT, "/instances", None, 405, Code::BadRequest),
        (Method::GET, "/images/fetches/1", None, 409, Code::NoMission),
        (Method::POST, "/images/fetches", start(r#"{"image":"speech"}"#), 409, Code::NoMission),
        (Method::POST, "/images/fetches", start(r#"{"image":1}"#), 400, Code::BadRequest),
        (Method::POST, "/cloudlet", None, 405, Code::BadRequest),
        (Method::POST, "/instances", start("{"), 400, Code::BadRequest),
        (Method::POST, "/instances", start(r#"{"service":"echo"}"#), 400, Code::BadRequest),
        (
            Method::POST,
            "/instances",
            start(r#"{"service":"../x","client_token":"a"}"#),
            400,
            Code::BadRequest,
        ),
        (Method::POST, "/instances", start(r#"{"service":"echo","client_token":""}"#), 400, Code::BadRequest),
        (
            Method::POST,
            "/instances",
            start(r#"{"service":"echo","client_token":"a","x":1}"#),
            400,
            Code::BadRequest,
        ),
        (
            Method::POST,
            "/instances",
            start(r#"{"service":"nope","client_token":"a"}"#),
            404,
            Code::UnknownService,
        ),
        (Method::POST, "/instances", start(&long_token), 400, Code::BadRequest),
        (Method::POST, "/instances", start(&long), 413, Code::BadRequest),
    ];
    for (method, path, body, status, code) in cases {
        let mut request = daemon.client.http.request(method.clone(), daemon.client.url(path));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), *status, "{method} {path}");
        assert_eq!(answer.headers()["content-type"], "application/json", "{method} {path}");
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.code, *code, "{method} {path}: {}", problem.message);
        assert!(problem.message.len() > 10 && problem.message.len() < 600, "{}", problem.message);
    }
    // Not JSON at all, and a path outside the API.
    let post = daemon.client.http.post(daemon.client.url("/instances"));
    assert_eq!(post.body("x").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let root = daemon.client.base.replace("/api/v1", "/favicon.ico");
    let problem: Problem = api_support::plain_http().get(root).send().await.unwrap().json().await.unwrap();
    assert_eq!(problem.code, Code::UnknownPath);
    let refused = daemon.client.http.put(daemon.client.url("/instances")).send().await.unwrap();
    assert!(refused.headers()["allow"].to_str().unwrap().contains("POST"));
    // All of that changed nothing.
    assert_eq!(daemon.client.instances().await, [instance]);
}

#[tokio::test]
async fn a_daemon_that_ends_cuts_off_who_does_not_let_go() {
    let world = World::new();
    let daemon = world.daemon();
    let host = daemon.client.base.trim_start_matches("http://").trim_end_matches("/api/v1").to_owned();
    // Half a request, and never more.
    let mut half = tokio::net::TcpStream::connect(host).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"POST /api/v1/instances HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    stop_within(daemon, Duration::from_secs(15)).await;
}

async fn stop_within(daemon: Daemon, limit: Duration) {
    let stopped = tokio::task::spawn_blocking(move || daemon.stop());
    tokio::time::timeout(limit, stopped).await.expect("it did not end").unwrap().unwrap();
}

#[tokio::test]
async fn the_document_lists_exactly_what_the_router_answers() {
    let world = World::new();
    let daemon = world.daemon();
    let (status, document) = daemon.client.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            describe(operation, &format!("{method} {path}"));
        }
    }
    let contract = [
        "DELETE /api/v1/evacuation",
        "DELETE /api/v1/images/fetches/{id}",
        "DELETE /api/v1/instances/{id}",
        "DELETE /api/v1/instances/{id}/handoff",
        "DELETE /api/v1/place",
        "GET /api/v1/cloudlet",
        "GET /api/v1/evacuation",
        "GET /api/v1/events",
        "GET /api/v1/images/fetches",
        "GET /api/v1/images/fetches/{id}",
        "GET /api/v1/instances",
        "GET /api/v1/instances/{id}",
        "GET /api/v1/instances/{id}/handoff",
        "GET /api/v1/instances/{id}/handoff/plan",
        "GET /api/v1/instances/{id}/tunnel",
        "GET /api/v1/openapi.json",
        "GET /api/v1/peers",
        "GET /api/v1/peers/{node_id}/tunnel",
        "GET /api/v1/placement",
        "GET /api/v1/revocations",
        "GET /api/v1/services",
        "GET /api/v1/services/{id}",
        "POST /api/v1/evacuation",
        "POST /api/v1/images/fetches",
        "POST /api/v1/instances",
        "POST /api/v1/instances/{id}/handoff",
        "POST /api/v1/instances/{id}/handoff/force",
        "POST /api/v1/pairing",
        "POST /api/v1/reintegration",
        "POST /api/v1/revocations",
        "PUT /api/v1/drain",
        "PUT /api/v1/place",
    ];
    assert_eq!(listed, contract.map(str::to_owned).into());

    // What is listed is answered, and of each listed path no other method is.
    let id = Uuid::new_v4().to_string();
    let paths: BTreeSet<&str> = contract.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    for path in paths {
        let url = daemon.client.base.replace("/api/v1", &path.replace("{id}", &id));
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let verb = Method::from_bytes(method.as_bytes()).unwrap();
            let status = daemon.client.http.request(verb, &url).send().await.unwrap().status();
            let answered = status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(answered, listed.contains(&format!("{method} {path}")), "{method} {path}: {status}");
        }
    }
}

/// Every operation says what it does and what every answer means; every parameter is described.
fn describe(operation: &Value, what: &str) {
    assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
    let answers = operation["responses"].as_object().unwrap();
    assert!(answers.keys().any(|status| status.starts_with('2') || *status == "101"), "{what}");
    for (status, answer) in answers {
        assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{what} {status}");
        if status == "101" {
            continue;
        }
        assert!(answer["content"].as_object().is_some_and(|content| !content.is_empty()), "{what} {status}");
    }
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{what} {parameter}");
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere_and_every_field_is_described() {
    let document: Value = serde_json::from_str(node::api::document()).unwrap();
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    assert!(references.len() >= 10, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference out of the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in [
        "Cloudlet",
        "Load",
        "Service",
        "Start",
        "Instance",
        "State",
        "Sharing",
        "Event",
        "Problem",
        "Missing",
        "FetchImage",
        "ImageFetch",
        "FetchedFrom",
        "FetchState",
    ] {
        let schema = schemas.get(name).unwrap_or_else(|| panic!("no schema {name}"));
        assert!(schema["description"].is_string(), "{name}");
        for (field, about) in schema["properties"].as_object().into_iter().flatten() {
            // A field that is a type of its own may leave the description to that.
            let says = |value: &Value| value["description"].is_string() || value["$ref"].is_string();
            let described =
                says(about) || about["oneOf"].as_array().is_some_and(|kinds| kinds.iter().any(says));
            assert!(described, "{name}.{field}: {about}");
        }
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}
