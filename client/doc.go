// Package client is Cape's Go SDK: it deploys functions to secure enclaves and runs
// them there, and believes only what it verified.
//
//	c, err := client.New(client.Options{
//		BaseURL: "https://cape.example.com",
//		Trust:   trust.Policy{Roots: [][]byte{chain.AWSRoot()}, PCRs: pcrs, KeyPolicies: policies},
//		Token:   client.StaticToken(token),
//		Account: key,
//	})
//	result, err := c.Run(ctx, client.Function{Name: "user/isprime", Account: account}, []byte("13"))
//
// Sessions are sealed to the enclave (protocol v2): inputs, results, functions and the
// token are for it alone. Before anything is sent, its attestation document is verified:
// chain, signature, nonce, measurements, debug mode, and that it vouches for the session's
// key, its configuration, and a KMS key that was born in an enclave under the attested
// policy. Before an input is sent, the account's signature of the function is verified.
// Every result comes with a receipt, which must be signed by the attested key and be of
// what was sent and received; a Receipt can be verified offline, by others. Without a
// Trust, a Client refuses everything. ProtocolV1 is spoken only when Options ask for it.
//
// The example of Client.Connect calls a function of a caped dev.
//
// Package trust has a judge for programs and one that keeps the trust file of the cape
// command. There are no globals; every call takes a context and honours it.
package client
