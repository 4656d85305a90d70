# Settles which versions are installed, without running code of a package: wheels say what they need, and of what is to be
# had as source only, uv is told what the source's own files say (Core Metadata 2.2, pyproject.toml, egg-info, setup.cfg, and
# setup.py as far as it is read without being run). It is then never asked to build it. Runs where the network is; the standard library alone, without site.
#   settle.py version   the version that requirements.in stands for, on stdout
#   settle.py new       settles /tmp/requirements.txt, the lock
#   settle.py again     takes that lock as it is
# Both leave in /tmp/wheels.txt what is unpacked, in /tmp/sources.json and /opt/mcp/.build what is built.
import ast
import base64
import configparser
import email.parser
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile

BUILD = "/opt/mcp/.build"
LOCK = "/tmp/requirements.txt"
MARK = "# built from source:"
# A tree with more sources, or deeper ones, is given up.
ROUNDS = 40
# Bytes of one file of a source that says what it is.
FACTS = 4 << 20
# The same of a program that is parsed.
SETUP = 256 << 10
HINT = re.compile(r"Wheels are required for `([^`]+)` because building from source is disabled")
# What PEP 518 has for a source that says nothing.
TOOLS = ["setuptools >= 40.8.0"]


def fail(words):
    sys.exit(f"{words}\nChoose another version (--package NAME@VERSION), or run an image that has the server")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock):
    return {plain(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.MULTILINE)}


def ask(text, sources, *options):
    """Asks uv. Every name that it may take as source has its metadata stated, whatever the version: so it builds none."""
    stated = []
    for name, known in sources.items():
        for version, facts in [(None, {}), *known.items()]:
            stated.append(f"[[dependency-metadata]]\nname = {json.dumps(name)}\n")
            if version:
                stated.append(f"version = {json.dumps(version)}\n")
            for key in ("requires-dist", "provides-extra"):
                stated.append(f"{key} = {json.dumps(facts.get(key, []), ensure_ascii=False)}\n")
    with open("/tmp/uv.toml", "w") as file:
        file.write("".join(stated))
    with open("/tmp/asked.in", "w") as file:
        file.write(text)
    words = ["uv", "pip", "compile", "--config-file", "/tmp/uv.toml", "--quiet", "--no-header", "--no-annotate"]
    words += ["--python", "/usr/bin/python3", "--only-binary", ":all:"]
    for name in sources:
        words += ["--no-binary", name]
    return subprocess.run([*words, *options, "/tmp/asked.in"], capture_output=True, text=True)


def tell(done):
    """What uv said, without its advice about flags: they are none of the user's."""
    sys.stderr.write("".join(l for l in done.stderr.splitlines(True) if "--no-b" not in l and "--only-b" not in l))


def settled(text, sources, *options):
    """uv's lock. Adds the names to `sources` that there is no wheel of."""
    for _ in range(ROUNDS):
        done = ask(text, sources, *options)
        if done.returncode == 0:
            return done.stdout
        new = {plain(n) for n in HINT.findall(done.stderr)} - set(sources)
        if not new:
            tell(done)
            sys.exit(done.returncode)
        sources.update({name: {} for name in new})
    fail(f"more than {ROUNDS} of what it needs are to be had as source only")


def request(url):
    """With the credentials of the site's index, where it is on that index's host; a redirection does not get them."""
    made = urllib.request.Request(url)
    there = urllib.parse.urlsplit(url)
    for index in f"{os.environ.get('UV_DEFAULT_INDEX', '')} {os.environ.get('UV_INDEX', '')}".split():
        at = urllib.parse.urlsplit(index.split("=", 1)[-1] if "=" in index.split("//")[0] else index)
        if at.username and (at.scheme, at.hostname, at.port) == (there.scheme, there.hostname, there.port):
            pair = f"{urllib.parse.unquote(at.username)}:{urllib.parse.unquote(at.password or '')}"
            made.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
            break
    return made


def download(name, version, sources):
    """The source of a version, in a folder of its own: its path."""
    done = ask(f"{name}=={version}\n", sources, "--no-deps", "--format", "pylock.toml")
    found = tomllib.loads(done.stdout).get("packages", []) if done.returncode == 0 else []
    sdist = next((p["sdist"] for p in found if "sdist" in p), None)
    if not sdist:
        tell(done)
        fail(f"{name} {version} has neither a wheel for this machine nor a source")
    url, folder = sdist["url"], f"{BUILD}/{name}/source"
    file = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    os.makedirs(folder, exist_ok=True)
    for old in os.listdir(folder):
        os.remove(f"{folder}/{old}")
    for attempt in range(3):
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(request(url), timeout=60) as answer, open(f"{folder}/{file}", "wb") as out:
                while piece := answer.read(1 << 16):
                    digest.update(piece)
                    out.write(piece)
            break
        except OSError as e:
            if attempt == 2 or isinstance(e, urllib.error.HTTPError):
                fail(f"the source of {name} {version} could not be fetched: {e}")
            time.sleep(1 + attempt)
    wanted = sdist.get("hashes", {}).get("sha256")
    if wanted and wanted != digest.hexdigest():
        fail(f"the source of {name} {version} is not what the index says: its SHA-256 is {digest.hexdigest()}")
    return f"{folder}/{file}", digest.hexdigest()


def files(path):
    """The small files at the top of a source, and those of its egg-info, by their names."""
    top = re.compile(r"[^/]+/(?:[^/]+|(?:src/)?[^/]+\.egg-info/[^/]+)")
    wanted = {"PKG-INFO", "pyproject.toml", "setup.cfg", "setup.py", "requires.txt", "entry_points.txt"}
    found = {}

    def take(name, size, read):
        last = os.path.basename(name)
        if last in wanted and top.fullmatch(name) and size <= FACTS and (last not in found or name.count("/") == 1):
            found[last] = read().decode("utf-8", "replace")

    if path.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for i in archive.infolist():
                take(i.filename, i.file_size, lambda: archive.read(i))
    else:
        with tarfile.open(path) as archive:
            for i in archive:
                if i.isfile():
                    take(i.name, i.size, lambda: archive.extractfile(i).read())
    return found


def of_egg(text):
    """The requirements of an egg-info's requires.txt, as PEP 508 writes them, and its extras."""
    requires, extras, extra, marker = [], [], "", ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            extra, _, marker = line.strip("[]").partition(":")
            extras += [extra] if extra else []
            continue
        terms = [f"({marker})"] if marker else []
        terms += [f'extra == "{extra}"'] if extra else []
        requires.append(f"{line} ; {' and '.join(terms)}" if terms else line)
    return requires, extras


def ini(text):
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    return parser


def of_setup_cfg(options):
    """The same of a setup.cfg. None where it says nothing, or names a file that says it."""
    section = options["options"] if "options" in options else {}
    if "install_requires" not in section or section["install_requires"].lstrip().startswith("file:"):
        return None
    more = options["options.extras_require"] if "options.extras_require" in options else {}
    return of_mapping(section["install_requires"].splitlines(), dict(more))


def of_setup_py(text):
    """The same of a setup.py, which is parsed and never run. None where its call of setup() has no list, or makes it."""
    if len(text) > SETUP:
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    named = {t.id: n.value for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}

    def literal(node, default):
        node = named.get(node.id) if isinstance(node, ast.Name) else node
        try:
            return default if node is None else ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError, MemoryError):
            return default

    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or getattr(call.func, "id", getattr(call.func, "attr", "")) != "setup":
            continue
        words = {k.arg: k.value for k in call.keywords}
        requires = literal(words.get("install_requires"), None)
        requires = requires.splitlines() if isinstance(requires, str) else requires
        extras = literal(words.get("extras_require"), {})
        if isinstance(requires, (list, tuple)) and all(isinstance(r, str) for r in requires):
            return of_mapping(requires, extras if isinstance(extras, dict) else {})
    return None


def of_mapping(requires, extras):
    """What setuptools takes, as egg-info has it: `NAME:MARKER` is an extra of that name, or of none."""
    lines = [*requires]
    for name, more in extras.items():
        more = more.splitlines() if isinstance(more, str) else more
        if isinstance(more, (list, tuple)):
            lines += [f"[{name}]", *[m for m in more if isinstance(m, str)]]
    return of_egg("\n".join(lines))


def facts(path):
    """What a source says of itself: what it needs, its extras, its programs, and what building it takes."""
    found = files(path)
    try:
        project = tomllib.loads(found.get("pyproject.toml", ""))
    except tomllib.TOMLDecodeError:
        project = {}
    own, dynamic = project.get("project", {}), project.get("project", {}).get("dynamic", [])
    info = email.parser.Parser().parsestr(found.get("PKG-INFO", ""), headersonly=True)
    listed = [f.lower() for f in info.get_all("Dynamic", [])]
    stated = [int(n) for n in re.findall(r"\d+", info.get("Metadata-Version", "1.0"))[:2]]
    options = ini(found.get("setup.cfg", ""))
    if stated >= [2, 2] and "requires-dist" not in listed:
        requires, extras = info.get_all("Requires-Dist", []), info.get_all("Provides-Extra", [])
    elif own and "dependencies" not in dynamic and "optional-dependencies" not in dynamic:
        requires, extras = list(own.get("dependencies", [])), []
        for extra, more in own.get("optional-dependencies", {}).items():
            extras.append(extra)
            for one in more:
                what, _, marker = one.partition(";")
                terms = ([f"({marker.strip()})"] if marker else []) + [f'extra == "{extra}"']
                requires.append(f"{what} ; {' and '.join(terms)}")
    elif "requires.txt" in found:
        requires, extras = of_egg(found["requires.txt"])
    elif said := of_setup_cfg(options) or of_setup_py(found.get("setup.py", "")):
        requires, extras = said
    else:
        requires, extras = info.get_all("Requires-Dist", []), info.get_all("Provides-Extra", [])
    programs = set(own.get("scripts", {})) | set(project.get("tool", {}).get("poetry", {}).get("scripts", {}))
    entries = ini(found.get("entry_points.txt", ""))
    programs |= set(entries["console_scripts"]) if "console_scripts" in entries else set()
    if "options.entry_points" in options:
        lines = options["options.entry_points"].get("console_scripts", "").splitlines()
        programs |= {l.split("=")[0].strip() for l in lines if "=" in l}
    tools = project.get("build-system", {}).get("requires", TOOLS)
    # Older ones ask for it only while they build.
    tools = [*tools, *["wheel" for t in tools if plain(t).startswith("setuptools")]]
    programs = sorted(p for p in programs if p and os.path.basename(p) == p)
    return {"requires-dist": requires, "provides-extra": extras, "programs": programs, "tools": tools}


def split(lock, names):
    """The lock without the entries of these names."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return "".join(e for e in entries if not names & set(pins(e)) and not e.startswith("#"))


def main():
    with open("/srv/build/requirements.in") as file:
        wanted = file.read()
    sources = {}
    if sys.argv[1] == "version":
        print(settled(wanted, sources, "--no-deps"))
        return
    if sys.argv[1] == "again":
        with open(LOCK) as file:
            lock = file.read()
        sources = {plain(n): {} for l in lock.splitlines() if l.startswith(MARK) for n in l.removeprefix(MARK).split()}
    for _ in range(ROUNDS):
        if sys.argv[1] == "new":
            lock = settled(wanted, sources, "--generate-hashes")
        fresh = [(n, v) for n, v in pins(lock).items() if n in sources and v not in sources[n]]
        for name, version in fresh:
            print(f"{name} {version} has no wheel for this machine: fetching its source", file=sys.stderr)
            path, digest = download(name, version, sources)
            if sys.argv[1] == "again" and f"sha256:{digest}" not in lock:
                fail(f"the source of {name} {version} is another than the lock says")
            sources[name][version] = facts(path)
        if not fresh:
            break
    else:
        fail(f"what it needs is not settled after {ROUNDS} rounds")
    built = {n: sources[n][v] | {"version": v} for n, v in pins(lock).items() if n in sources}
    if built and sys.argv[1] == "new":
        lock = f"{MARK} {' '.join(sorted(built))}\n{lock}"
    for name, known in built.items():
        done = ask("\n".join(known["tools"]) + "\n", {})
        if done.returncode:
            tell(done)
            fail(f"{name} {known['version']} is to be had as source only, and building it takes what has no wheel for this machine")
        with open(f"{BUILD}/{name}/tools.txt", "w") as file:
            file.write(done.stdout)
    # Of what was looked at on the way and is not needed after all, nothing is built.
    for name in os.listdir(BUILD) if os.path.isdir(BUILD) else []:
        if name not in built:
            subprocess.run(["rm", "-rf", f"{BUILD}/{name}"], check=True)
    for path, content in [(LOCK, lock), ("/tmp/wheels.txt", split(lock, set(built))), ("/tmp/sources.json", json.dumps(built))]:
        with open(path, "w") as file:
            file.write(content)


if __name__ == "__main__":
    main()
