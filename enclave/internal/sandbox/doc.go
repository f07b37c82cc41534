// Package sandbox runs one program in a jail: namespaces of its own without a
// network, a read-only tree with a private writable copy of the function's
// folder, a user of its own, no capabilities, and limits on what it may use.
//
// It trusts the kernel, the runtime's own binary, and the directories that its
// caller shows to the jail. It refuses to start anything when a layer of the
// jail cannot be had, unless it was told to go on without. The program inside
// is hostile: nothing it does may outlive Close, reach another jail, or hang
// the caller. Package handler is its only caller.
package sandbox
