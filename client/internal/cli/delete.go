package cli

import (
	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/wire"
)

func (a *app) deleteCommand() *cobra.Command {
	var token string
	cmd := &cobra.Command{
		Use:     "delete FUNCTION_ID",
		Short:   "Delete one of your functions",
		Example: `  cape delete AbCdEfGhJkLmNpQrStUvWx`,
		Args:    args(1, 1, "the function's id"),
		RunE: func(cmd *cobra.Command, given []string) error {
			who, err := a.caller(token)
			if err != nil {
				return err
			}
			c, err := a.connect(&who, wishes{})
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.Delete(cmd.Context(), given[0]); err != nil {
				return err
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			// Ids are never used again, so nothing is lost with the memory of this one.
			if err := forgetFunction(cmd, trust.NewStore(s.InDir("trust.json")), c.Origin(), given[0]); err != nil {
				a.note("The trust file still knows the function: %v", err)
			}
			if a.json() {
				return a.printJSON(map[string]any{"function_id": given[0], "deleted": true})
			}
			a.note("Deleted function %s.", given[0])
			return nil
		},
		ValidArgsFunction: a.functionNames(true),
	}
	cmd.Flags().StringVarP(&token, "token", "t", "", "token instead of the stored login")
	return cmd
}

// forgetFunction removes an id, and names that mean it, from the trust file.
func forgetFunction(cmd *cobra.Command, store *trust.Store, origin, id string) error {
	entry, err := store.Origin(origin)
	if err != nil || entry == nil || entry.Functions[id] == "" {
		return err
	}
	return store.Update(cmd.Context(), func(f *wire.TrustFile) error {
		entry := f.Origins[origin]
		if entry == nil {
			return nil
		}
		delete(entry.Functions, id)
		for name, n := range entry.Names {
			if n.ID == id {
				delete(entry.Names, name)
			}
		}
		return nil
	})
}
