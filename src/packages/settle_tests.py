# Tests what settle.py reads from sources, given its path: python3 settle_tests.py settle.py
import importlib.util
import io
import sys
import tarfile
import tempfile
import zipfile

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("settle", sys.argv[1])
settle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settle)


def facts(files, form="tar.gz"):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/x-1.{form}"
        if form == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for name, text in files.items():
                    archive.writestr(f"x-1/{name}", text)
        else:
            with tarfile.open(path, "w:gz") as archive:
                for name, text in files.items():
                    entry = tarfile.TarInfo(f"x-1/{name}")
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text.encode()))
        return settle.facts(path)


def same(found, wanted):
    assert found == wanted, f"{found}\n  is not {wanted}"


# Core Metadata 2.2 binds; before it, the egg-info does, with its sections as markers.
new = "Metadata-Version: 2.2\nName: x\nVersion: 1\nRequires-Dist: a>1\nRequires-Dist: b; extra == 'e'\nProvides-Extra: e\n\nbody"
said = facts({"PKG-INFO": new, "x.egg-info/requires.txt": "other\n"})
same((said["requires-dist"], said["provides-extra"]), (["a>1", "b; extra == 'e'"], ["e"]))
same(said["tools"], ["setuptools >= 40.8.0", "wheel"])
old = "Metadata-Version: 2.1\nName: x\nVersion: 1\n"
egg = "a>=1\n\n[:python_version < '3']\nb\n\n[e]\nc\n\n[e:os_name == 'nt']\nd\n"
for form in ("tar.gz", "zip"):
    said = facts({"PKG-INFO": old, "src/x.egg-info/requires.txt": egg}, form)
    same(said["requires-dist"], ["a>=1", "b ; (python_version < '3')", 'c ; extra == "e"', "d ; (os_name == 'nt') and extra == \"e\""])
moving = new.replace("Name: x", "Dynamic: Requires-Dist\nName: x")
same(facts({"PKG-INFO": moving, "x.egg-info/requires.txt": "z\n"})["requires-dist"], ["z"])

# Before egg-info there was setup.py, which is read and not run; and setup.cfg, which goes before it.
setup = """import setuptools, os
needs = ['a>=1', 'b']
more = {'e': ['c'], ':os_name == "nt"': 'd'}
if __name__ == '__main__':
    os.abort()
    setuptools.setup(name='x', install_requires=needs, extras_require=more)
"""
said = facts({"PKG-INFO": old, "setup.py": setup})
same(said["requires-dist"], ["a>=1", "b", 'c ; extra == "e"', 'd ; (os_name == "nt")'])
same(said["provides-extra"], ["e"])
options = "[options]\ninstall_requires =\n    z==1\n    # not this\n    y\n[options.extras_require]\ne = w\n"
said = facts({"PKG-INFO": old, "setup.py": setup, "setup.cfg": options})
same(said["requires-dist"], ["z==1", "y", 'w ; extra == "e"'])
same(facts({"setup.py": setup, "setup.cfg": "[options]\ninstall_requires = file: r.txt\n"})["requires-dist"][:2], ["a>=1", "b"])
same(facts({"setup.py": "from setuptools import *\nsetup(install_requires='a\\nb>1')"})["requires-dist"], ["a", "b>1"])
odd = "setup(install_requires=['a'], extras_require={'dev': None, 'more': ('b', 1)})"
same(facts({"setup.py": odd})["requires-dist"], ["a", 'b ; extra == "more"'])
# What only running it would tell is not known, and what is no Python is no program.
for text in ("setup(install_requires=read())", "print 'old'", "(" * 5000, "\0", "setup(install_requires=[1])"):
    same(facts({"setup.py": text})["requires-dist"], [])

# What pyproject.toml states, where it does not leave it to the build.
project = '[build-system]\nrequires = ["flit"]\n[project]\nname = "x"\ndependencies = ["a; os_name == \'posix\'"]\nscripts = { run = "x:main" }\n'
said = facts({"PKG-INFO": old, "pyproject.toml": project + '[project.optional-dependencies]\ne = ["b"]\n'})
same(said["requires-dist"], ["a; os_name == 'posix'", 'b ; extra == "e"'])
same((said["provides-extra"], said["programs"], said["tools"]), (["e"], ["run"], ["flit"]))
dynamic = '[project]\nname = "x"\ndynamic = ["dependencies"]\n'
same(facts({"pyproject.toml": dynamic, "x.egg-info/requires.txt": "z\n"})["requires-dist"], ["z"])

# Programs, wherever they are named; none with a path. What cannot be read says nothing.
entries = {"x.egg-info/entry_points.txt": "[console_scripts]\nRun-It = x:main\n../evil = x:main\n[other]\nno = x:y\n"}
same(facts(entries)["programs"], ["Run-It"])
same(facts({"setup.cfg": "[options.entry_points]\nconsole_scripts =\n    one = x:a\n    two = x:b\n"})["programs"], ["one", "two"])
same(facts({"pyproject.toml": "not [ toml", "setup.cfg": "nor this", "deep/er/PKG-INFO": new})["requires-dist"], [])

lock = "# built from source: y\na-b==1 \\\n    --hash=sha256:0\ny==2 \\\n    --hash=sha256:1\nz==3\n"
same(settle.split(lock, {"y"}), "a-b==1 \\\n    --hash=sha256:0\nz==3\n")
same(settle.pins(lock), {"a-b": "1", "y": "2", "z": "3"})

# The site's credentials go to its index and nowhere else.
settle.os.environ |= {"UV_DEFAULT_INDEX": "https://u:p%40w@index.example/simple", "UV_INDEX": "more=https://v:q@other.example:8443/simple"}
sent = lambda url: settle.request(url).unredirected_hdrs.get("Authorization", "")
same(settle.base64.b64decode(sent("https://index.example/f/x.tar.gz").split()[1]), b"u:p@w")
same(settle.base64.b64decode(sent("https://other.example:8443/x.zip").split()[1]), b"v:q")
same([sent("http://index.example/x"), sent("https://index.example:444/x"), sent("https://files.example/x")], ["", "", ""])
