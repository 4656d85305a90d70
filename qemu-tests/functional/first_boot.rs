//! From the image to a tool call: the box boots by UEFI, is claimed, runs an instance, and an official client calls it
//! over TLS with the box's CA.

use crate::harness::claimed::claimed;

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
    m.check();
}
