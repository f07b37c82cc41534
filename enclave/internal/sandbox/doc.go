// Package sandbox runs functions in jails: namespaces of their own without a
// network, a read-only tree with a private writable copy of the function's
// folder, a user of their own, no capabilities, a list of allowed system calls,
// Landlock, and limits on what they may use.
//
// A fork server, an interpreter in which only our own code has run, forks each
// jail: a keeper, which is the first process of the jail's namespaces, and a
// worker, which takes all rights from itself. Jails are built ahead and wait
// without a function. Before a function comes near, the runtime looks at the
// worker from outside and ends what is not as it should be; only then the
// keeper puts the function's folder in its place and the worker imports it. One
// jail serves one connection.
//
// It trusts the kernel, the interpreter, package python's server and keeper,
// and the directories that its caller shows to the jail. It refuses to start
// when a layer of the jail cannot be had, unless it was told to go on without.
// The function is hostile: nothing it does may outlive Close, reach another
// jail, or hang the caller. Package handler is its only caller.
package sandbox
