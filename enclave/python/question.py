"""Says what a runtime must know of an interpreter, in pieces that end with a zero byte between them.

Run once, outside any jail, by an interpreter that is trusted as the runtime itself is: both are
measured. In a virtual environment it names the interpreter that the environment was made from. It
imports nothing that an interpreter has not imported anyway.
"""

import os, sys
exe = getattr(sys, "_base_executable", None) or sys.executable
dirs = {sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__), os.path.dirname(exe), os.path.dirname(os.path.realpath(exe))}
try:
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(None, 5)[5:]
            if path and path[0].startswith("/") and ".so" in path[0]:
                dirs.add(os.path.dirname(path[0].strip()))
except OSError:
    pass
print(exe, "%d.%d" % sys.version_info[:2], os.uname().sysname.lower() + "-" + os.uname().machine, *sorted(dirs), sep="\0", end="")
