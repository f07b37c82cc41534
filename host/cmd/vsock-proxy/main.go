// Command vsock-proxy forwards vsock connections of an enclave to allow-listed
// TCP endpoints.
package main

func main() {}
