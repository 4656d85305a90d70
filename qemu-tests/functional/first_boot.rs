//! From the image to a tool call: the box boots by UEFI, is claimed, runs an instance, and official clients call it
//! over TLS with the box's CA.

use crate::harness::{claimed::claimed, patience};

#[test]
fn first_boot_to_a_tool_call() {
    let c = claimed();
    // What was saved is that box.
    let (mut m, address) = c.resume("resumed");
    c.holds(&address);
    let list = c.laptop(&m).json(&["list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list:#}");
    // It has no domain: what it gives out is where it was asked, and no address of the reader's own machine.
    for i in list.as_array().unwrap() {
        let url = format!("https://localhost:{}/mcp/{}", m.port, i["id"].as_str().unwrap());
        assert_eq!(i["endpoints"]["mcp"]["url"], url.as_str());
    }
    let own = m.sh("berth list --json");
    assert!(own.contains("https://10.") && !own.contains("localhost"), "{own}");
    // What `connect` prints is enough for a client: its address and a token of its own.
    let id = &c.facts.everything.id;
    let said = c.laptop(&m).cli(&["connect", id, "--client", "claude-code"], "");
    assert!(
        said.contains(&format!("https://localhost:{}/mcp/{id}", m.port)),
        "{said}"
    );
    for client in ["ts1", "py"] {
        let done = address.official_client(&c.facts.everything, client, "list-call");
        assert_eq!(done["ok"], true, "{client}: {done}");
    }
    // A quota holds at once for what runs, although the supervisor's sandbox may not set it, and goes back.
    let slice = "/sys/fs/cgroup/berth.slice/berth-*.slice/berth-*-default.slice";
    m.sh("berth workspace set default --cpus 1 --memory 1GiB");
    let held = format!("grep -qx 1073741824 {slice}/memory.max && grep -qx '100000 100000' {slice}/cpu.max");
    m.until("the quota is held", &held, patience(30));
    m.sh("berth workspace set default --cpus default --memory default");
    let back = format!("! grep -qx 1073741824 {slice}/memory.max");
    m.until("the quota is as before", &back, patience(30));
    m.check();
}
