//! `/v1/console/namespaces`: the names of namespaces. Instances do not need a namespace that was created here.
//!
//! Nacos keeps namespaces for its console and for rights. A client may use any id.

use serde_json::{json, Value};

use super::{call::Call, parameters::Parameters, reply::Reply, state::State};

/// Returns all namespaces, one namespace, or whether a namespace exists.
pub(crate) fn get(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let parameters = &call.parameters;
    if parameters.get("checkNamespaceIdExist") == Some("true") {
        let exists = state.namespaces.contains_key(parameters.or("customNamespaceId", ""));
        return Ok(Reply::json(&exists));
    }
    let all = all(state);
    if parameters.get("show") == Some("all") {
        let id = parameters.namespace();
        let one = all.into_iter().find(|one| one["namespace"] == id || one["namespaceShowName"] == id);
        let missing = || parameters.error(404, &format!("namespaceId [ {id} ] not exist"));
        return Ok(Reply::json(&one.ok_or_else(missing)?));
    }
    Ok(Reply::json(&json!({ "code": 200, "message": null, "data": all })))
}

/// `public` first, then those that were created.
fn all(state: &State) -> Vec<Value> {
    // The id of `public` is empty before 3.x.
    let public = ("", "public", "Default Namespace", 0);
    let made =
        state.namespaces.iter().map(|(id, (name, description))| (id.as_str(), name.as_str(), description.as_str(), 2));
    let described = |(id, name, description, kind): (&str, &str, &str, i64)| {
        let mut namespace =
            json!({ "namespace": id, "namespaceShowName": name, "quota": 200, "configCount": 0, "type": kind });
        if !state.dialect().is_v1_4() {
            namespace["namespaceDesc"] = json!(description);
        }
        namespace
    };
    std::iter::once(public).chain(made).map(described).collect()
}

/// Creates a namespace. Answers false if it exists already.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let id = match call.parameters.get("customNamespaceId") {
        Some(id) => id.trim().to_owned(),
        None => format!("{:032x}", fastrand::u128(..)),
    };
    let name_and_description = name_and_description(&call.parameters, "namespaceName")?;
    let is_new = !state.namespaces.contains_key(&id);
    if is_new {
        state.namespaces.insert(id, name_and_description);
    }
    Ok(Reply::json(&is_new))
}

pub(crate) fn edit(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    let id = call.parameters.required("namespace")?;
    let name_and_description = name_and_description(&call.parameters, "namespaceShowName")?;
    if let Some(known) = state.namespaces.get_mut(id) {
        *known = name_and_description;
    }
    Ok(Reply::json(&true))
}

pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, Reply> {
    state.namespaces.remove(call.parameters.required("namespaceId")?);
    Ok(Reply::json(&true))
}

fn name_and_description(parameters: &Parameters, name: &str) -> Result<(String, String), Reply> {
    Ok((parameters.required(name)?.to_owned(), parameters.or("namespaceDesc", "").to_owned()))
}
