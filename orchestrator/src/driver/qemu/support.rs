//! What a QEMU can do in a migration: which capabilities and parameters it has, and which it accepts
//! together.
//!
//! All of this is found out by asking QEMU, not by looking at its version: a distribution may build QEMU
//! without a codec, and a host may lack what a capability needs.

use super::{
    parameters::{Parameters, capability},
    qmp,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The capabilities and parameters of one QEMU.
pub(super) struct Support {
    /// The names of all capabilities.
    capabilities: Vec<String>,
    /// The parameters, each with the words that it accepts; without words, it may be a number, a flag or
    /// text.
    parameters: HashMap<String, Vec<String>>,
    /// The kinds of addresses that a guest can migrate to; none if QEMU does not list them.
    addresses: Vec<String>,
    /// The values of the parameters at the start.
    initial: Map<String, Value>,
}

impl Support {
    /// Asks a QEMU that has not migrated anything.
    pub(super) async fn of(monitor: &qmp::Client) -> Result<Self, qmp::Error> {
        let capabilities: Value = monitor.query("query-migrate-capabilities").await?;
        let initial: Map<String, Value> = monitor.query("query-migrate-parameters").await?;
        let schema: Vec<Value> = monitor.query("query-qmp-schema").await?;
        let capabilities = capabilities.as_array().into_iter().flatten();
        let capabilities = capabilities.filter_map(|entry| Some(entry["capability"].as_str()?.to_owned()));
        Ok(Self {
            capabilities: capabilities.collect(),
            parameters: parameters(&schema),
            addresses: addresses(&schema),
            initial,
        })
    }

    /// Returns what this QEMU lacks for a migration with these capabilities and parameters, as a clause about
    /// QEMU.
    fn lacks(&self, wanted: &Parameters) -> Option<String> {
        if let Some(name) =
            wanted.capability_names().find(|name| !self.capabilities.iter().any(|c| c == name))
        {
            return Some(format!("has no migration capability `{name}`"));
        }
        if wanted.to_file && !self.addresses.iter().any(|address| address == "file") {
            return Some("cannot save a guest to a file (QEMU 8.2 and later can)".into());
        }
        wanted.parameters.as_object()?.iter().find_map(|(name, value)| {
            let Some(words) = self.parameters.get(name) else {
                return Some(format!("has no migration parameter `{name}`"));
            };
            let word = value.as_str().filter(|_| !words.is_empty())?;
            let known = words.iter().any(|known| known == word);
            (!known).then(|| format!("has no `{name}` of `{word}`, only {}", words.join(", ")))
        })
    }

    /// Returns why this QEMU would not begin a migration with these capabilities and parameters, as a clause
    /// about QEMU. Returns nothing if it accepts them. Its previous settings are discarded.
    pub(super) async fn refusal(
        &self,
        monitor: &qmp::Client,
        wanted: &Parameters,
    ) -> Result<Option<String>, qmp::Error> {
        if let Some(lacks) = self.lacks(wanted) {
            return Ok(Some(lacks));
        }
        let off: Vec<Value> = self.capabilities.iter().map(|name| capability(name, false)).collect();
        monitor.call("migrate-set-capabilities", json!({ "capabilities": off })).await?;
        let settable = self.initial.iter().filter(|(name, _)| self.parameters.contains_key(*name));
        let initial: Map<String, Value> =
            settable.map(|(name, value)| (name.clone(), value.clone())).collect();
        monitor.call("migrate-set-parameters", initial.into()).await?;
        let told = async {
            monitor.call("migrate-set-capabilities", wanted.capabilities.clone()).await?;
            monitor.call("migrate-set-parameters", wanted.parameters.clone()).await
        };
        match told.await {
            Ok(_) => Ok(None),
            Err(qmp::Error::Refused { reason, .. }) => Ok(Some(format!("refuses it: {reason}"))),
            Err(error) => Err(error),
        }
    }
}

/// Returns the parameters that can be set according to QEMU's schema, with the words that each accepts.
fn parameters(schema: &[Value]) -> HashMap<String, Vec<String>> {
    let named = |name: &Value| schema.iter().find(|entry| entry["name"] == *name);
    let members = |entry: Option<&Value>| entry.and_then(|entry| entry["members"].as_array()).cloned();
    let command = named(&"migrate-set-parameters".into());
    let parameters = members(command.and_then(|command| named(&command["arg-type"]))).unwrap_or_default();
    let words = |kind: &Value| -> Vec<String> {
        let values = named(kind).and_then(|kind| kind["values"].as_array());
        values.into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let parameter = |entry: &Value| Some((entry["name"].as_str()?.to_owned(), words(&entry["type"])));
    parameters.iter().filter_map(parameter).collect()
}

/// Returns the kinds of addresses that the command `migrate` takes according to QEMU's schema: the branches
/// of the type of `channels.addr`. Both `channels` and files are new in QEMU 8.2.
fn addresses(schema: &[Value]) -> Vec<String> {
    let named = |name: &Value| schema.iter().find(|entry| entry["name"] == *name);
    let kind_of = |object: &Value, member: &str| {
        let members = object["members"].as_array()?;
        named(&members.iter().find(|entry| entry["name"] == member)?["type"])
    };
    let address = || {
        let command = named(&"migrate".into())?;
        let channels = kind_of(named(&command["arg-type"])?, "channels")?;
        kind_of(named(&channels["element-type"])?, "addr")
    };
    let branches = address().and_then(|address| address["variants"].as_array());
    branches.into_iter().flatten().filter_map(|branch| Some(branch["case"].as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a QEMU that lacks most features.
    fn small() -> Support {
        let schema = json!([
            { "name": "migrate-set-parameters", "meta-type": "command", "arg-type": "7" },
            { "name": "7", "meta-type": "object", "members": [
                { "name": "max-bandwidth", "default": null, "type": "int" },
                { "name": "multifd-compression", "default": null, "type": "8" },
            ] },
            { "name": "8", "meta-type": "enum", "values": ["none", "zlib"] },
            { "name": "migrate", "meta-type": "command", "arg-type": "9" },
            { "name": "9", "meta-type": "object", "members": [{ "name": "uri", "type": "str" }] },
        ]);
        let capabilities = vec!["events".into(), "multifd".into()];
        let schema = schema.as_array().unwrap();
        let (parameters, addresses) = (parameters(schema), addresses(schema));
        Support { capabilities, parameters, addresses, initial: Map::new() }
    }

    #[test]
    fn what_a_qemu_lacks_is_named() {
        let lacks = |names: &[&str], parameters: Value| {
            let capabilities: Vec<Value> = names.iter().map(|name| capability(name, true)).collect();
            let capabilities = json!({ "capabilities": capabilities });
            small().lacks(&Parameters { capabilities, parameters, to_file: false })
        };
        let to_file = Parameters { capabilities: json!({}), parameters: json!({}), to_file: true };
        assert!(small().lacks(&to_file).unwrap().starts_with("cannot save a guest to a file"));
        let larger = json!([
            { "name": "migrate", "meta-type": "command", "arg-type": "1" },
            { "name": "1", "meta-type": "object", "members": [{ "name": "channels", "type": "[2]" }] },
            { "name": "[2]", "meta-type": "array", "element-type": "2" },
            { "name": "2", "meta-type": "object", "members": [{ "name": "addr", "type": "3" }] },
            { "name": "3", "meta-type": "object", "tag": "transport", "variants": [
                { "case": "socket", "type": "4" }, { "case": "file", "type": "5" },
            ] },
        ]);
        let addresses = addresses(larger.as_array().unwrap());
        assert_eq!(addresses, ["socket", "file"]);
        assert_eq!(Support { addresses, ..small() }.lacks(&to_file), None);
        assert_eq!(lacks(&["events", "multifd"], json!({ "max-bandwidth": 7 })), None);
        assert_eq!(lacks(&["multifd"], json!({ "multifd-compression": "zlib" })), None);
        assert_eq!(lacks(&["mapped-ram"], json!({})).unwrap(), "has no migration capability `mapped-ram`");
        assert_eq!(
            lacks(&[], json!({ "direct-io": true })).unwrap(),
            "has no migration parameter `direct-io`"
        );
        assert_eq!(
            lacks(&[], json!({ "multifd-compression": "zstd" })).unwrap(),
            "has no `multifd-compression` of `zstd`, only none, zlib"
        );
    }
}
