// Package session serves callers: it proves the enclave to them, admits them, takes their
// sealed functions and inputs, and gives back results.
//
// It trusts the security module, the key ring, and what package vault authenticated. Callers
// and the host that carries their bytes are hostile: every frame, header and wait is bounded,
// tokens are verified here, and a function's owner and access come from its manifest alone.
// It refuses everything until the KEK was inspected, and whatever a caller may not see looks
// like something that does not exist. Package boot starts it.
//
// What both versions of the protocol share (admission, functions, handlers, Cape-encrypted
// inputs, limits) does not know of frames; files named v1_ hold the rest.
package session
