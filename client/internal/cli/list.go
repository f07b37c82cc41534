package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/core/wire"
)

type listOutput struct {
	Deployments []deployment `json:"deployments"`
	Count       int          `json:"count"`
}

type deployment struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Checksum  string    `json:"checksum,omitempty"`
	Public    bool      `json:"public"`
	Size      int64     `json:"size,omitempty"`
}

func (a *app) listCommand() *cobra.Command {
	var token string
	var limit, offset int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List your functions",
		Example: `  cape list --limit 10 -o json`,
		Args:    args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || offset < 0 {
				return fmt.Errorf("%w: --limit is at least 1 and --offset at least 0", errUsage)
			}
			who, err := a.caller(token)
			if err != nil {
				return err
			}
			c, err := a.connect(&who, wishes{})
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.List(cmd.Context(), limit, offset)
			if err != nil {
				return err
			}
			return a.showList(list)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&token, "token", "t", "", "token instead of the stored login")
	fl.IntVar(&limit, "limit", 50, "show at most this many")
	fl.IntVar(&offset, "offset", 0, "leave out this many of the newest")
	return cmd
}

func (a *app) showList(list []wire.Function) error {
	if a.json() {
		out := listOutput{Deployments: []deployment{}, Count: len(list)}
		for _, f := range list {
			out.Deployments = append(out.Deployments, deployment(f))
		}
		return a.printJSON(out)
	}
	if len(list) == 0 {
		a.note("There are no functions.")
		return nil
	}
	rows := [][]string{{"#", "NAME", "ID", "CREATED AT"}}
	for i, f := range list {
		rows = append(rows, []string{strconv.Itoa(i), line(f.Name), line(f.ID), f.CreatedAt.Local().Format("Jan 02 2006 15:04")})
	}
	return a.print([]byte(table(rows)))
}
