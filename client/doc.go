// Package client is Cape's Go SDK: it deploys functions to secure enclaves and runs
// them there, and believes only what it verified.
//
//	c, err := client.New(client.Options{
//		BaseURL: "https://cape.example.com",
//		Trust:   trust.Policy{Roots: [][]byte{chain.AWSRoot()}, PCRs: pcrs, KeyPolicies: policies},
//		Token:   client.StaticToken(token),
//	})
//	result, err := c.Run(ctx, client.Function{Name: "user/isprime"}, []byte("13"))
//
// Before anything is sent, the enclave's attestation document is verified: chain,
// signature, nonce, measurements, debug mode, key policy, function checksum. Every
// result is verified as well: its checksums must be signed by the attested key and be
// those of what was sent and received. Without a Trust, a Client refuses everything.
//
// Package trust has a judge for programs and one that keeps the trust file of the cape
// command. There are no globals; every call takes a context and honours it.
package client
