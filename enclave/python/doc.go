// Package python holds the Python half of the handler host: the worker that
// imports a function and calls it, and the check that reads app.py without
// running it.
//
// It trusts nothing: both programs run inside a jail, beside code of tenants,
// and whatever they say is read with limits on the other side. The files are
// part of the runtime's binary, so its measurement covers them; package handler
// writes them to the runtime's private scratch space at boot.
package python
