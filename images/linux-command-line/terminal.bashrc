# The shell of whoever takes control of the screen.
PS1='\[\e[1;32m\]you\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]$ '
HISTFILE=$HOME/.bash_history
HISTCONTROL=ignoreboth
alias ls='ls --color=auto' grep='grep --color=auto'
[ ! -r "$HOME/.bashrc" ] || . "$HOME/.bashrc"
printf '\e[2mWhat the assistant runs appears here. Who takes control types here.\e[0m\n'
