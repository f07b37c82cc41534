package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
)

// Calls dev/hello of a caped dev twice in one session. The argument is the directory of
// caped dev; its config holds login, account key, and whom to trust, as that of cape does.
func ExampleClient_Connect() {
	config := filepath.Join(os.Args[1], "config")
	var login struct {
		Token string `json:"access_token"`
	}
	data, err := os.ReadFile(filepath.Join(config, "auth"))
	if err == nil {
		err = json.Unmarshal(data, &login)
	}
	if err != nil {
		log.Fatal(err)
	}
	data, err = os.ReadFile(filepath.Join(config, "account-key"))
	if err != nil {
		log.Fatal(err)
	}
	key, err := account.Parse(data)
	if err != nil {
		log.Fatal(err)
	}
	own := [32]byte(key.ID())
	c, err := client.New(client.Options{
		BaseURL: "http://127.0.0.1:7676",
		Trust:   &trust.Keeper{Store: trust.NewStore(filepath.Join(config, "trust.json")), Own: &own},
		Token:   client.StaticToken(login.Token),
		Account: key,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	session, err := c.Connect(ctx, client.Function{Name: "dev/hello"})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	for _, input := range []string{"ann", "bob"} {
		result, err := session.Invoke(ctx, []byte(input))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(result.Output))
	}
}
