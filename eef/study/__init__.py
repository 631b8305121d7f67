"""Study: methods compared over seeds at equal budgets. Runs → pieces → numbers over seeds → tables, document, page.

`piece`: what one method came to with one seed, in few numbers; `seeds`: the numbers of several; `gather`: pieces from
run directories and files; `tables`, `figures`, `page`: how they are shown.
"""
