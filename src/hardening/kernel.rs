//! The kernel: its command line, its sysctls, its modules.

use super::{Facts, List, words};

/// A word that must stand on the command line.
const WORDS: [(&str, &str); 20] = [
    ("KSPP: slab_nomerge", "slab_nomerge"),
    ("KSPP: init_on_alloc", "init_on_alloc=1"),
    ("KSPP: init_on_free", "init_on_free=1"),
    ("KSPP: page_alloc.shuffle", "page_alloc.shuffle=1"),
    ("KSPP: hardened_usercopy", "hardened_usercopy=1"),
    ("KSPP: kfence.sample_interval", "kfence.sample_interval=100"),
    ("KSPP: proc_mem.force_override", "proc_mem.force_override=never"),
    ("KSPP: pti", "pti=on"),
    ("KSPP: randomize_kstack_offset", "randomize_kstack_offset=on"),
    ("KSPP: vsyscall", "vsyscall=none"),
    ("KSPP: ia32_emulation", "ia32_emulation=0"),
    ("KSPP: iommu.strict", "iommu.strict=1"),
    ("KSPP: iommu.passthrough", "iommu.passthrough=0"),
    ("KSPP: efi", "efi=disable_early_pci_dma"),
    ("KSPP: oops", "oops=panic"),
    ("KSPP: debugfs", "debugfs=off"),
    ("KSPP: lockdown", "lockdown=integrity"),
    ("KSPP: module.sig_enforce", "module.sig_enforce=1"),
    ("CIS Debian 1.3.1.2", "apparmor=1"),
    (
        "berth: no boot of another root",
        "systemd.verity_root_options=panic-on-corruption",
    ),
];

/// Kernel settings: reference, name, the values that pass.
const SYSCTLS: [(&str, &str, &[&str]); 45] = [
    ("CIS Debian 1.5.1", "kernel.randomize_va_space", &["2"]),
    ("KSPP: kernel.yama.ptrace_scope", "kernel.yama.ptrace_scope", &["3"]),
    ("KSPP: kernel.kptr_restrict", "kernel.kptr_restrict", &["2"]),
    ("KSPP: kernel.dmesg_restrict", "kernel.dmesg_restrict", &["1"]),
    (
        "KSPP: kernel.perf_event_paranoid",
        "kernel.perf_event_paranoid",
        &["3", "4"],
    ),
    ("KSPP: kernel.kexec_load_disabled", "kernel.kexec_load_disabled", &["1"]),
    (
        "KSPP: kernel.unprivileged_bpf_disabled",
        "kernel.unprivileged_bpf_disabled",
        &["1"],
    ),
    ("KSPP: net.core.bpf_jit_harden", "net.core.bpf_jit_harden", &["2"]),
    (
        "KSPP: vm.unprivileged_userfaultfd",
        "vm.unprivileged_userfaultfd",
        &["0"],
    ),
    ("KSPP: vm.mmap_min_addr", "vm.mmap_min_addr", &["65536"]),
    ("KSPP: vm.mmap_rnd_bits", "vm.mmap_rnd_bits", &["32"]),
    ("KSPP: vm.mmap_rnd_compat_bits", "vm.mmap_rnd_compat_bits", &["16"]),
    ("KSPP: dev.tty.ldisc_autoload", "dev.tty.ldisc_autoload", &["0"]),
    ("KSPP: dev.tty.legacy_tiocsti", "dev.tty.legacy_tiocsti", &["0"]),
    ("KSPP: kernel.io_uring_disabled", "kernel.io_uring_disabled", &["2"]),
    ("KSPP: kernel.sysrq", "kernel.sysrq", &["0"]),
    ("KSPP: kernel.panic_on_oops", "kernel.panic_on_oops", &["1"]),
    ("KSPP: kernel.warn_limit", "kernel.warn_limit", &["100"]),
    ("KSPP: kernel.oops_limit", "kernel.oops_limit", &["100"]),
    ("KSPP: fs.protected_symlinks", "fs.protected_symlinks", &["1"]),
    ("KSPP: fs.protected_hardlinks", "fs.protected_hardlinks", &["1"]),
    ("KSPP: fs.protected_fifos", "fs.protected_fifos", &["2"]),
    ("KSPP: fs.protected_regular", "fs.protected_regular", &["2"]),
    ("CIS Debian 1.5.3", "fs.suid_dumpable", &["0"]),
    ("CIS Debian 1.5.3", "kernel.core_pattern", &["|/bin/false"]),
    ("CIS Debian 3.3.2", "net.ipv4.conf.all.send_redirects", &["0"]),
    ("CIS Debian 3.3.2", "net.ipv4.conf.default.send_redirects", &["0"]),
    ("CIS Debian 3.3.3", "net.ipv4.icmp_ignore_bogus_error_responses", &["1"]),
    ("CIS Debian 3.3.4", "net.ipv4.icmp_echo_ignore_broadcasts", &["1"]),
    ("CIS Debian 3.3.5", "net.ipv4.conf.all.accept_redirects", &["0"]),
    ("CIS Debian 3.3.5", "net.ipv4.conf.default.accept_redirects", &["0"]),
    ("CIS Debian 3.3.5", "net.ipv6.conf.all.accept_redirects", &["0"]),
    ("CIS Debian 3.3.5", "net.ipv6.conf.default.accept_redirects", &["0"]),
    ("CIS Debian 3.3.6", "net.ipv4.conf.all.secure_redirects", &["0"]),
    ("CIS Debian 3.3.6", "net.ipv4.conf.default.secure_redirects", &["0"]),
    ("CIS Debian 3.3.7", "net.ipv4.conf.all.rp_filter", &["1"]),
    ("CIS Debian 3.3.7", "net.ipv4.conf.default.rp_filter", &["1"]),
    ("CIS Debian 3.3.8", "net.ipv4.conf.all.accept_source_route", &["0"]),
    ("CIS Debian 3.3.8", "net.ipv4.conf.default.accept_source_route", &["0"]),
    ("CIS Debian 3.3.8", "net.ipv6.conf.all.accept_source_route", &["0"]),
    ("CIS Debian 3.3.8", "net.ipv6.conf.default.accept_source_route", &["0"]),
    ("CIS Debian 3.3.9", "net.ipv4.conf.all.log_martians", &["1"]),
    ("CIS Debian 3.3.9", "net.ipv4.conf.default.log_martians", &["1"]),
    ("CIS Debian 3.3.10", "net.ipv4.tcp_syncookies", &["1"]),
    ("berth: TIME-WAIT assassination", "net.ipv4.tcp_rfc1337", &["1"]),
];

/// Settings that stand otherwise on purpose: reference, name, what is recommended, why not here.
const WAIVED: [(&str, &str, &str, &str); 5] = [
    (
        "KSPP: kernel.unprivileged_userns_clone",
        "kernel.unprivileged_userns_clone",
        "0",
        "a browser's own sandbox is made of user namespaces; the box has no users, and the seccomp profile of every other container refuses them",
    ),
    (
        "CIS Debian 3.3.1",
        "net.ipv4.ip_forward",
        "0",
        "the box routes for its own containers; the firewall's forward chain drops everything else",
    ),
    (
        "CIS Debian 3.3.11",
        "net.ipv6.conf.all.accept_ra",
        "0",
        "a box without a site file finds its address by router advertisements; systemd-networkd, not the kernel, judges them",
    ),
    (
        "KSPP: kernel.modules_disabled",
        "kernel.modules_disabled",
        "1",
        "Docker and the firewall load modules when they need them; only signed ones load, and the root that they come from is verified",
    ),
    (
        "KSPP: user.max_user_namespaces",
        "user.max_user_namespaces",
        "0",
        "user namespaces map root of a container to a user without rights outside, and the browser's sandbox needs one",
    ),
];

/// File systems and protocols that must not be there: CIS Debian 1.1.1 and 3.2.
const MODULES: [(&str, &str); 12] = [
    ("CIS Debian 1.1.1.1", "cramfs"),
    ("CIS Debian 1.1.1.2", "freevxfs"),
    ("CIS Debian 1.1.1.3", "hfs"),
    ("CIS Debian 1.1.1.4", "hfsplus"),
    ("CIS Debian 1.1.1.5", "jffs2"),
    ("CIS Debian 1.1.1.7", "squashfs"),
    ("CIS Debian 1.1.1.8", "udf"),
    ("CIS Debian 3.2.1", "dccp"),
    ("CIS Debian 3.2.2", "tipc"),
    ("CIS Debian 3.2.3", "rds"),
    ("CIS Debian 3.2.4", "sctp"),
    ("CIS Debian 3.1.3", "bluetooth"),
];

pub(super) fn sysctls() -> impl Iterator<Item = &'static str> {
    let waived = WAIVED.iter().map(|(_, name, ..)| *name);
    SYSCTLS.iter().map(|(_, name, _)| *name).chain(waived)
}

pub(super) fn check(facts: &Facts, list: &mut List) {
    let line: Vec<&str> = facts.command_line.split_whitespace().collect();
    for (reference, word) in WORDS {
        let key = word.split('=').next().unwrap_or(word);
        let found: Vec<&str> = line
            .iter()
            .copied()
            .filter(|w| w.split('=').next() == Some(key))
            .collect();
        // The kernel takes the last one.
        list.check(
            reference,
            format!("kernel command line: {word}"),
            found.last() == Some(&word),
            words(&found),
        );
    }
    let hash = line.iter().find(|w| w.starts_with("roothash=") && w.len() == 73);
    let found = hash.map_or(
        "no roothash= on the command line",
        |_| "its hash is on the command line",
    );
    list.check(
        "berth: verified root",
        "the root file system is bound to this kernel",
        hash.is_some(),
        found,
    );
    let mitigations = line.iter().rev().find(|w| w.starts_with("mitigations="));
    list.waive(
        "KSPP: mitigations",
        "kernel command line: mitigations=auto,nosmt",
        mitigations == Some(&"mitigations=auto,nosmt"),
        mitigations.map_or("absent", |w| w),
        "auto keeps every mitigation and leaves hyper-threads on; a site that wants them off turns them off in the firmware",
    );
    for (reference, name, wanted) in SYSCTLS {
        let found = facts.sysctls.get(name);
        let holds = found.is_some_and(|v| wanted.contains(&v.as_str()));
        let found = found.map_or("unreadable", |v| v);
        list.check(reference, format!("sysctl {name} = {}", wanted[0]), holds, found);
    }
    for (reference, name, wanted, reason) in WAIVED {
        let found = facts.sysctls.get(name).map_or("unreadable", |v| v);
        list.waive(
            reference,
            format!("sysctl {name} = {wanted}"),
            found == wanted,
            found,
            reason,
        );
    }
    modules(facts, list);
    let enforced = |set: &str| facts.lsm.split(',').any(|l| l.trim() == set);
    list.check(
        "CIS Debian 1.3.1.1",
        "AppArmor is on",
        enforced("apparmor"),
        facts.lsm.trim(),
    );
    let locked = facts.lockdown.contains("[integrity]") || facts.lockdown.contains("[confidentiality]");
    list.check(
        "KSPP: lockdown",
        "the kernel is locked down",
        locked,
        facts.lockdown.trim(),
    );
    let lax: Vec<&str> = facts.profiles.lines().filter(|l| !l.ends_with("(enforce)")).collect();
    let enforcing = facts.profiles.lines().count() - lax.len();
    let confined = facts.profiles.contains("docker-default (enforce)") || facts.containers.is_empty();
    let waived = "profiles of Debian's that come unconfined stand for programs that the image does not have";
    let found = format!("{enforcing} enforced, {} not", lax.len());
    list.waive(
        "CIS Debian 1.3.1.4",
        "all AppArmor profiles are enforced",
        lax.is_empty(),
        found,
        waived,
    );
    list.check(
        "CIS Docker 5.2",
        "the profile of containers is enforced",
        confined,
        "docker-default",
    );
}

fn modules(facts: &Facts, list: &mut List) {
    for (reference, name) in MODULES {
        let loaded = facts.modules.lines().any(|l| l.split(' ').next() == Some(name));
        let loadable = facts.loadable.iter().any(|l| l == name);
        let known = !facts.loadable.is_empty();
        let found = match (loaded, loadable) {
            _ if !known => "the kernel's modules could not be listed",
            (true, _) => "loaded",
            (_, true) => "can be loaded",
            _ => "not in the image",
        };
        list.check(
            reference,
            format!("no module {name}"),
            known && !loaded && !loadable,
            found,
        );
    }
    let there = |name: &str| facts.loadable.iter().any(|l| l == name);
    let found = |name: &str| {
        if there(name) {
            "can be loaded"
        } else {
            "not in the image"
        }
    };
    let needed = "Docker's storage driver is overlay2";
    list.waive(
        "CIS Debian 1.1.1.6",
        "no module overlay",
        !there("overlay"),
        found("overlay"),
        needed,
    );
    let stick = "the box is installed from a USB stick; on a box in a rack, whoever plugs one in has the machine";
    list.waive(
        "CIS Debian 1.1.1.9",
        "no module usb-storage",
        !there("usb-storage"),
        found("usb-storage"),
        stick,
    );
}
