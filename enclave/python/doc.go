// Package python holds the Python half of the handler host: the fork server, the jail that it
// forks, the worker that imports a function and calls it, and the check that reads app.py
// without running it.
//
// server.py and the keeper in jail.py are trusted: they build jails and never read a byte of a
// function, an input or a secret. worker.py and check.py run inside a jail, beside code of
// tenants: nothing they say is believed, and package sandbox looks at what they became before
// a function comes near. The files are part of the runtime's binary, so its measurement covers
// them; package handler writes them to the runtime's private scratch space at boot.
package python
