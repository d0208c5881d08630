"""One server over many machines, on Ray (decision 66).

Four kinds of processes take part, and each module says in which one it runs:

- a *node server*: the ordinary server of one machine. It never imports Ray and goes on without it.
- a *node actor*: a Ray actor on each node, which starts or adopts the node server there and carries its messages.
- the *controller*: one Ray actor of the cluster. It holds the desired state and gives every node its assignment.
- a *command*: ``mooring serve --cluster`` and ``mooring cluster``, each a driver of Ray while it runs.

Only the package ``ray`` beside this file imports Ray.
"""
