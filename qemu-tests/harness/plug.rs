//! What is plugged into a machine while it runs: a disk, a network card.

use serde_json::{Value, json};

use super::{
    machine::{MAC, Machine},
    qemu,
};

impl Machine {
    /// Plugs an empty disk of 17 GB, a file of this name in the machine's folder, into the running box.
    pub fn plug_disk(&mut self, name: &str) {
        let file = self.dir.join(name).display().to_string();
        qemu::run_tool("qemu-img", &["create", "-q", "-f", "qcow2", &file, "17G"]);
        let node = json!({ "driver": "qcow2", "node-name": "second", "discard": "unmap",
                           "file": { "driver": "file", "filename": file, "discard": "unmap" } });
        self.qmp().call("blockdev-add", node);
        let disk = json!({ "driver": "virtio-blk-pci", "drive": "second", "id": "second", "bus": "slot0" });
        self.qmp().call("device_add", disk);
    }

    /// Plugs a network card into a box that was started without one.
    pub fn plug_network(&mut self) {
        let words = self.netdev("net");
        let mut arguments = serde_json::Map::new();
        let mut forwards = Vec::new();
        for (n, word) in words.split(',').enumerate() {
            match word.split_once('=') {
                None => drop(arguments.insert("type".into(), json!(word))),
                Some(("hostfwd", to)) => forwards.push(json!({ "str": to })),
                Some(("restrict", on)) => drop(arguments.insert("restrict".into(), json!(on == "on"))),
                Some((key, value)) => drop(arguments.insert(key.into(), json!(value))),
            }
            assert!(n < 16);
        }
        arguments.insert("hostfwd".into(), Value::Array(forwards));
        self.qmp().call("netdev_add", Value::Object(arguments));
        let card = json!({ "driver": "virtio-net-pci", "netdev": "net", "id": "card", "bus": "slot0", "mac": MAC });
        self.qmp().call("device_add", card);
    }
}
