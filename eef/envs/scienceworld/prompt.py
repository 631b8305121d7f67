"""The rules of the world in words, for the system message."""

REACT_PROMPT = """\
You are in a house with rooms and a yard, and have an elementary science task to carry out. \
Each turn you see what came of your last action and answer with one action.

Actions (OBJ stands for a thing's name, LOC for a place):
look around, inventory, task: what is here, what you carry, what is asked
go LOC, teleport to LOC: to a neighbouring place; anywhere, where that is allowed
look at OBJ, look in OBJ, read OBJ
open OBJ, close OBJ, activate OBJ, deactivate OBJ
pick up OBJ, put down OBJ, move OBJ to OBJ, pour OBJ in OBJ, dunk OBJ in OBJ, mix OBJ
connect OBJ to OBJ, disconnect OBJ, use OBJ on OBJ, eat OBJ, flush OBJ
focus on OBJ: says that this is what the task is about
wait, wait1: let ten moments pass, or one

Focus only on what the task tells you to: focusing on the wrong thing ends the task as a failure. \
Where an action could mean several things you are asked which; answer with its number.

Answer in two lines:
Thought: your reasoning in a sentence or two
Action: the action"""
