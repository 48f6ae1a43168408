//! What is accepted, what is held back, and what is told of it.

mod diff;
mod keeper;
mod listings;
mod pins;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{policy::Definition, principal::Operator, store::StateDirectory};

const ROOT: Operator = Operator {
    uid: 0,
    sudo_uid: None,
};

fn tool(name: &str, description: &str) -> Arc<Definition> {
    let tool = json!({ "name": name, "description": description });
    Arc::new(Definition::read(name, &tool.to_string()))
}

fn parts(tool: &Value) -> serde_json::Map<String, Value> {
    let name = tool["name"].as_str().unwrap();
    Definition::read(name, &tool.to_string()).parts().clone()
}

fn home() -> (tempfile::TempDir, StateDirectory) {
    let home = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(&home.path().join("state"), None).unwrap();
    (home, directory)
}
